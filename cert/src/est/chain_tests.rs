//! Chains out of heaps.

use super::*;
use crate::support::authority::{Issued, common_name};

fn names(chain: &[X509]) -> Vec<String> {
    chain.iter().map(|certificate| common_name(certificate.subject_name())).collect()
}

fn built(leaf: &Issued, issued: &[&Issued], authorities: &[&Issued]) -> Vec<String> {
    let certs = |list: &[&Issued]| list.iter().map(|of| of.cert.clone()).collect();
    names(&build(&leaf.cert.public_key().unwrap(), certs(issued), certs(authorities)).unwrap())
}

#[test]
fn certs_53_leaf_first_each_once_nothing_else() {
    let root = Issued::root("root");
    let middle = root.authority("middle");
    let leaf = middle.leaf("leaf");
    let (stranger, sibling) = (Issued::root("stranger"), root.authority("sibling"));
    let all = ["leaf", "middle", "root"];
    assert_eq!(built(&leaf, &[&leaf], &[&root, &middle]), all);
    assert_eq!(built(&leaf, &[&middle, &leaf], &[&root, &middle]), all);
    assert_eq!(built(&leaf, &[&leaf, &middle, &root], &[&stranger, &sibling, &root, &root]), all);
    assert_eq!(built(&leaf, &[&leaf], &[&root]), ["leaf"], "a gap ends it");
    assert_eq!(built(&leaf, &[&leaf], &[&stranger]), ["leaf"]);
    assert_eq!(built(&root, &[&root], &[&root]), ["root"]);
}

#[test]
fn a_name_alone_makes_no_issuer() {
    let (root, fake) = (Issued::root("root"), Issued::root("root"));
    let leaf = root.leaf("leaf");
    let chain =
        build(&leaf.cert.public_key().unwrap(), vec![leaf.cert.clone()], vec![fake.cert, root.cert.clone()])
            .unwrap();
    assert!(chain[1] == root.cert && chain.len() == 2);
}

#[test]
fn a_certificate_for_another_key_is_none() {
    let root = Issued::root("root");
    let (leaf, other) = (root.leaf("leaf"), root.leaf("leaf"));
    let error = build(&leaf.cert.public_key().unwrap(), vec![other.cert], vec![root.cert]).err().unwrap();
    assert!(error.to_string().contains("none of the 1"), "{error}");
}

#[test]
fn small_clients_get_no_root_when_it_is_too_much() {
    let root = Issued::root("root");
    let (mut issuer, mut list) = (root.clone(), vec![root.cert.clone()]);
    for level in ["one", "two", "three", "four", "five"] {
        issuer = issuer.authority(&format!("{level} {}", "x".repeat(50)));
        list.insert(0, issuer.cert.clone());
        let pem = to_pem(&list).unwrap();
        let reply = serde_json(&pem);
        let (found, has_root) = (
            pem.matches("BEGIN").count(),
            pem.ends_with(&pem::text(std::slice::from_ref(&root.cert)).unwrap()),
        );
        assert_eq!(found, if has_root { list.len() } else { list.len() - 1 });
        assert!(has_root == (serde_json(&pem::text(&list).unwrap()) <= SMALL_REPLY), "{reply}");
    }
    let alone = to_pem(&list[list.len() - 1..]).unwrap();
    assert_eq!(alone.matches("BEGIN").count(), 1, "a root that was asked for stays");
}

/// The size of the reply, counted another way.
fn serde_json(pem: &str) -> usize {
    format!("{{\"pem\":{pem:?}}}").len()
}
