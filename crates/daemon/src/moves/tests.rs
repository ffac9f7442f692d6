use serde_json::json;

use super::*;

fn definition(devices: serde_json::Value) -> Definition {
    let config = json!({"user.portway.moving.web": "a note"});
    Definition::read(json!({
        "name": "c1", "project": "default", "type": "container", "config": config, "devices": devices,
        "expanded_devices": devices, "profiles": [],
    }))
    .expect("a definition")
}

/// Fails when `put_in` overwrites what somebody made under the device's name while it was elsewhere.
#[test]
fn a_device_made_meanwhile_is_not_overwritten_by_the_way_back() {
    let proxy = json!({"type": "proxy", "listen": "tcp::80", "connect": "tcp::80"});
    let device: Device = serde_json::from_value(proxy.clone()).expect("a device");
    let what = api::MoveDevice {
        instance: "incus:default/c1".parse().expect("a name"),
        name: "web".parse().expect("a name"),
    };
    for place in [api::Place::Instance, api::Place::Profile] {
        let origin = Origin { device: device.clone(), place };
        for other in [json!({"type": "disk", "path": "/data"}), json!({"type": "proxy", "listen": "tcp::81"})]
        {
            let mut taken = definition(json!({"web": other}));
            let before = taken.clone();
            let refusal = put_in(&mut taken, &what, &origin).expect_err("taken");
            assert_eq!(refusal.to_string(), "incus:default/c1 has another device web in Incus meanwhile");
            assert_eq!(taken, before);
        }
        for free in [json!({}), json!({"web": {"type": "none"}}), json!({"web": proxy})] {
            let mut present = definition(free);
            put_in(&mut present, &what, &origin).expect("free");
            let own = (place == api::Place::Instance).then_some(&device);
            assert_eq!(present.devices().get("web"), own);
            assert_eq!(present.config("user.portway.moving.web"), None);
        }
    }
}
