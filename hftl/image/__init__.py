"""Images: read, looked at, and as random views."""
