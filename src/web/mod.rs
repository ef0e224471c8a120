//! Pages and replies: the language, the headers and the style that all listeners share.

pub mod language;

pub mod live;

pub mod reply;

pub mod description;
