class fault::cycle::other inherits fault::cycle { }
