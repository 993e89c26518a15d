"""English captions to pairs by a translation model, judged one by one. It stands beside the other rooms, and hands on
a .tsv that a corpus is read from."""
