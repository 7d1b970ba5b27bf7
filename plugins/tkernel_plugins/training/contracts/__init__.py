"""What the contract suites of tkernel cannot know of the built-in stages; imported by tests alone."""
