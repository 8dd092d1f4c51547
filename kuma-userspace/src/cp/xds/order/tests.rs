//! Tables of the order. Part of order.
