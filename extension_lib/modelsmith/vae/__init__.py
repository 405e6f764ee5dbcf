"""VAEs: which family a file holds, whether it runs in fp16, the exact cure, and moving one into and out of a file."""
