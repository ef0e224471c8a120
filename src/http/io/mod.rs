//! Bytes under time limits: streams, read buffers and deadlines, for clients and listeners alike.

pub mod deadline;

pub mod buffer;

pub mod length;

pub mod chunked;

pub mod stream;
