"""What the proof that nothing is lost is made of: user trees, instants, operations, a warm process that is killed."""
