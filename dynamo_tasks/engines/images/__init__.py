"""Images in chats: read within bounds, and fetched where the operator allows that."""
