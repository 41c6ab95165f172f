"""Text: files of any size, tokens and back, networks of words, sampling."""
