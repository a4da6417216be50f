class fault::cycle inherits fault::cycle::other { include fault::cycle::other }
