"""Floor 5: the doors. Command line, server, page. They know Application and Model, never one application."""
