"""Access control: identities, roles, credentials, and the log of admin actions."""
