//! The two files: read, checked whole, swapped in whole.
//!
//! It depends on neither signing nor the network. Keeps promise I6: a bad file never reduces service; and I5 for keys: no
//! message made here quotes a value from the merchants file.

pub mod problem;

mod document;
mod file;
pub mod secret_file;
pub mod units;
pub mod web_url;

pub mod token;

pub mod proxy;

pub mod public_keys;

mod layers;
pub mod listen;
pub mod store_address;

pub mod settings;

mod weak_keys;

pub mod merchants;

mod hint;

pub mod live;

pub use listen::Listen;
pub use live::{LiveConfig, ReloadOutcome, watch};
pub use merchants::{DeliveryForm, Merchant, MerchantRules, SigningKey, Snapshot};
pub use problem::{Problem, Problems};
pub use settings::Settings;
pub use store_address::StoreAddress;
