"""The SME platform in miniature: real servers on this machine, for the demo, the tests and the benchmark."""
