//! The life of the datapath: load, adopt, upgrade, heal, unload; and what happens when something stands in the way.
//! Called by `cargo xtask test lifecycle`.

use harness::datapath::{World, ask_original};

#[test]
fn a_vip_reaches_the_proxy_with_its_original_destination() {
    let world = World::builder().vips(&["240.0.0.1:80", "[fd00:fd00::1]:80"]).build().unwrap();
    let told = world.app(0, || ask_original("240.0.0.1:80").map_err(|error| error.to_string()));
    assert_eq!(told.as_deref(), Ok("240.0.0.1:80 [::ffff:240.0.0.1]:80"));
    let told = world.app(0, || ask_original("[fd00:fd00::1]:80").map_err(|error| error.to_string()));
    assert_eq!(told.as_deref(), Ok("[fd00:fd00::1]:80 [fd00:fd00::1]:80"));
}
