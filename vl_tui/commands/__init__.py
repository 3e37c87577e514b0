"""One file a command: reads its options, calls the rooms, prints. ``run(args) -> exit code``; imported when called."""
