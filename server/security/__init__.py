"""Who may do what: identities, roles, credentials, and the log of what admins did."""
