"""The command line: few verbs, the same for every application. Data on stdout, everything else on stderr."""
