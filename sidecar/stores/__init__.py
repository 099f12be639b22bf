"""The stores: two contracts, and the engines that keep them."""
