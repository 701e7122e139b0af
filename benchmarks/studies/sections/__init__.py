"""The sections of docs/results.md, each made of the results there are; one that has none yet says so."""
