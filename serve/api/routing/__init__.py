"""Routes: from an HTTP request to the part that answers it."""
