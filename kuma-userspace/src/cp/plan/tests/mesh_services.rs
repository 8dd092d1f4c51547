//! MeshServices and their kin: their VIPs, ports, and generated names.

use super::*;

#[test]
fn mesh_services_have_their_own_vips_ports_and_generated_names() {
    let web = dataplane("web-1", 1, "kuma.io/service: web");
    let plan = plan(&[&web, MESH_SERVICE, MESH_EXTERNAL, MULTI_ZONE]);
    assert_eq!(
        line(&plan, Kind::MeshService, "web"),
        "web.svc.mesh.local: 80->MeshService:web:80(10.0.0.1:8080), 81->MeshService:web:81(10.0.0.1:8080), \
         9090->MeshService:web:9090()"
    );
    assert_eq!(
        line(&plan, Kind::MeshExternalService, "bin"),
        "bin.extsvc.mesh.local: 443->MeshExternalService:bin:443(192.0.2.1:8443 httpbin.org:443)"
    );
    assert_eq!(
        line(&plan, Kind::MeshMultiZoneService, "web-all"),
        "web-all.mzsvc.mesh.local: 80->MeshMultiZoneService:web-all:80(10.0.0.1:8080)"
    );
    let key = ServiceKey::of("default", Kind::MeshService, "web");
    let listener = &plan.entries[&key].listeners["MeshService:web:80"];
    assert_eq!(listener.backend.protocol, Protocol::Http);
}

#[test]
fn a_mesh_can_turn_service_tags_into_mesh_services() {
    let (web, odd) =
        (dataplane("web-1", 1, "kuma.io/service: web"), dataplane("odd", 2, "kuma.io/service: web_odd"));
    let mesh = |mode: &str| format!("type: Mesh\nname: default\nmeshServices: {{mode: {mode}}}");
    let everywhere = plan(&[&web, &odd, &mesh("Everywhere")]);
    let want = "web.svc.mesh.local: 8080->MeshService:web:8080(10.0.0.1:8080)";
    assert_eq!(line(&everywhere, Kind::MeshService, "web"), want);
    assert_ne!(line(&everywhere, Kind::Service, "web"), "-");
    assert_eq!(line(&everywhere, Kind::MeshService, "web_odd"), "-", "no RFC 1035 label");
    let exclusive = plan(&[&web, &odd, &mesh("Exclusive")]);
    assert_eq!(line(&exclusive, Kind::MeshService, "web"), want);
    assert_eq!(line(&exclusive, Kind::Service, "web"), "-");
    let mut planner = Planner::default();
    planner.follow(&read(&["type: Mesh\nname: empty"]));
    assert!(planner.meshes().contains("empty") && planner.keys().len() == 0);
}

#[test]
fn the_loser_of_a_generated_name_is_told_the_winner() {
    let generator = |name: &str, kind: &str, template: &str| {
        format!(
            "type: HostnameGenerator\nname: {name}\nspec: {{selector: {{{kind}: {{}}}}, template: '{template}'}}"
        )
    };
    let web = dataplane("web-1", 1, "kuma.io/service: web");
    let plan = plan(&[
        &web,
        MESH_SERVICE,
        MESH_EXTERNAL,
        &generator("a", "meshService", "one.{{ .Mesh }}.{{ .Zone }}"),
        &generator("b", "meshExternalService", "one.{{ .Mesh }}.{{ .Zone }}"),
        &generator("c", "meshExternalService", "{{ label \"team\" }}.example"),
        &generator("local-mesh-external-service", "meshExternalService", "{{ .Name }}.example"),
    ]);
    let names = |kind, name| line(&plan, kind, name).split(':').next().unwrap().to_owned();
    assert_eq!(names(Kind::MeshService, "web"), "one.default.default web.svc.mesh.local");
    assert_eq!(names(Kind::MeshExternalService, "bin"), "bin.example", "ours replaced the default");
    assert_eq!(conflicts(&plan), ["one.default.default: MeshService web before MeshExternalService bin"]);
    let conditions: Vec<_> =
        plan.conditions.iter().map(|c| (c.generator.as_str(), c.reason, c.message.as_str())).collect();
    assert_eq!(
        conditions[0],
        (
            "HostnameGenerator b",
            "Collision",
            "Hostname collision on one.default.default with MeshService web"
        )
    );
    assert_eq!((conditions[1].0, conditions[1].1), ("HostnameGenerator c", "TemplateError"));
    assert!(conditions[1].2.contains("label team not found"), "{conditions:?}");
}
