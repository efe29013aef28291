"""A candidate bundle asked what the active one was asked, and the verdict."""
