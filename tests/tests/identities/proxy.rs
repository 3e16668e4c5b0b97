//! Through a proxy: checklist 76, and 74 of the common rules.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use suite_tests::harness::{IDENTITYD, Setup};

use crate::cloud::{Cloud, Site, dps, identityd, keyd, manual};

#[test]
fn identity_76_a_wrong_proxy_stops_the_start() {
    let config = "hostname = 'device'\n[provisioning]\nsource = 'none'\n";
    for wrong in ["not a url", "ftp://proxy:1"] {
        let ended = Setup::new(&IDENTITYD).config(config).env("HTTPS_PROXY", wrong).start_and_end();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert!(ended.log.contains("HTTPS_PROXY"), "{}", ended.log);
    }
}

#[test]
fn identity_76_all_calls_to_the_cloud_go_through_the_proxy() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    let keyd = keyd(&key);
    let (proxy, tunnels) = proxy();
    let setup = identityd(&cloud, &keyd, &dps(&cloud, "")).env("HTTPS_PROXY", proxy);
    let site = Site { identityd: setup.start(), keyd, cloud, key };
    site.own().expect(200);
    site.create("m").expect(200);
    let tunnels = tunnels.lock().unwrap();
    let (endpoint, hub) = (site.cloud.text("dps").replace("https://", ""), site.cloud.hub(0));
    for host in [endpoint, hub] {
        assert!(tunnels.contains(&format!("CONNECT {host} HTTP/1.1")), "{tunnels:?}");
    }
}

#[test]
fn common_74_sockets_of_this_machine_know_no_proxy() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let keyd = keyd(&key);
    let (proxy, tunnels) = proxy();
    let names = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let setup = identityd(&cloud, &keyd, &manual(&cloud, ""));
    let setup = names.into_iter().fold(setup, |setup, name| setup.env(name, &proxy));
    let site = Site { identityd: setup.start(), keyd, cloud, key };
    // The keys of the module are keyd's.
    site.create("m").expect(200);
    let hub = format!("CONNECT {} HTTP/1.1", site.cloud.hub(0));
    let tunnels = tunnels.lock().unwrap();
    assert!(!tunnels.is_empty() && tunnels.iter().all(|line| *line == hub), "{tunnels:?}");
}

/// A proxy that opens every tunnel; its URL, and the first lines of the requests it got.
fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || tunnel(stream, &seen));
        }
    });
    (url, lines)
}

fn tunnel(mut client: TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    seen.lock().unwrap().push(first.trim().to_owned());
    let mut server = TcpStream::connect(first.split(' ').nth(1)?).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut up, mut down) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || copy(&mut up, &mut server));
    copy(&mut down, &mut client);
    Some(())
}

fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let mut some = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut some) {
        if to.write_all(&some[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write); // it may be closed
}
