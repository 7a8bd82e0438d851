"""The data lake: where everything lies, and the few ways in which it is read and written."""
