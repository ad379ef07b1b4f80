"""What a fleet's migrations came to, as one page to look at: `kuaka report`."""
