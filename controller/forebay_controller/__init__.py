"""The controller: watches Functions and queues, decides how many instances run, makes it so."""
