"""What the frozen encoders make of each caption, computed once and stored in shards: targets, lengths, and the output
of the frozen layers. It hands on `Cache`, with the closed-form ridge map that its sums give."""
