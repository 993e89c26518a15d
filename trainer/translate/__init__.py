"""Machine translation of English captions into Chinese/English pairs, with checks of each pair."""
