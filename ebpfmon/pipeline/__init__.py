"""One tick, in the order the data goes. No stage imports another: `pipeline` introduces them."""
