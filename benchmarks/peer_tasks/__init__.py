"""An echo as a task of each peer. These modules run in the peers' own environments, not in the platform's."""
