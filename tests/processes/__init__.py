"""Many processes at one job: what each module does with one, and real ones that end in all ways."""
