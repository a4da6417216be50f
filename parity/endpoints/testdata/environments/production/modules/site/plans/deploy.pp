# A plan.
plan site::deploy() {}
