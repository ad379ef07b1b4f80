"""What a page is: batches of guest pages, their scan, and memory image files."""
