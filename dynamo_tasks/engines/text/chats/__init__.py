"""Chats: their tools and messages, checked, and the template that makes a prompt of them."""
