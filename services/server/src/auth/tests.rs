use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::reload::Reload;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Those of `claims` beside a user and a time that is to come.
fn claims(claims: Value) -> Value {
    let mut all = json!({"sub": "ada", "exp": now() + 60});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    all
}

fn signed(header: &Header, key: &EncodingKey, told: Value) -> String {
    encode(header, &claims(told), key).unwrap()
}

fn token(told: Value) -> String {
    signed(&Header::new(Algorithm::HS256), &EncodingKey::from_secret(SECRET).unwrap(), told)
}

fn jwk(key: &EncodingKey, algorithm: Algorithm, id: Option<&str>) -> Value {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
    jwk.common.key_id = id.map(str::to_owned);
    serde_json::to_value(jwk).unwrap()
}

fn secret(key: &[u8]) -> Value {
    jwk(&EncodingKey::from_secret(key).unwrap(), Algorithm::HS256, None)
}

/// An `Auth` by that file, with what else is configured.
fn auth_of(content: &str, config: Config) -> Result<Auth, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    fs::write(&file, content).unwrap();
    let shown = file.display().to_string();
    let auth = Auth::new(&Config { keys_file: Some(file), ..config });
    auth.map_err(|error| error.to_string().replace(&shown, "FILE"))
}

fn auth(config: Config) -> Auth {
    auth_of(&secret(SECRET).to_string(), config).unwrap()
}

fn hello<'a>(user: Option<&'a str>, token: Option<&'a str>) -> Hello<'a> {
    Hello { version: 1, user: user.map(Into::into), token: token.map(Into::into), ..Hello::default() }
}

/// What is decided without a check.
fn decide(auth: &Auth, hello: &Hello<'_>) -> Result<Principal, Refused> {
    auth.decide(hello).map(|decision| match decision {
        Decision::Known(principal) => principal,
        Decision::Login(login) => panic!("{login:?} has to be checked"),
    })
}

fn shown(auth: &Auth, token: &str) -> Result<Principal, Refused> {
    decide(auth, &hello(None, Some(token)))
}

#[test]
fn without_keys_a_name_is_taken_at_its_word_and_guests_differ() {
    let auth = Auth::default();
    let principal = decide(&auth, &hello(Some("ada"), Some("whatever"))).unwrap();
    assert_eq!((principal.user.as_str(), principal.rights), ("ada", None));
    let (one, other) = (auth.nameless().unwrap(), decide(&auth, &Hello::default()).unwrap());
    assert_ne!(one, other);
    assert!(one.user.as_str().starts_with("guest-") && one.user.as_str().len() == 16);
    let error = decide(&auth, &hello(Some("@system"), None)).unwrap_err();
    assert_eq!(error.code(), Code::BadUserName);
    assert!(error.to_string().contains("'@' is kept for the server"), "{error}");
    assert_eq!(auth.refresh(&one.user, None, "whatever").unwrap_err(), Refused::NoToken);
}

#[test]
fn a_token_says_who_its_bearer_is_and_what_it_may() {
    let auth = auth(Config::default());
    let principal = shown(&auth, &token(json!({}))).unwrap();
    let rights = principal.rights.unwrap();
    assert_eq!((principal.user.as_str(), &rights.read, &rights.post), ("ada", &Groups::all(), &Groups::all()));
    let left = rights.until.unwrap().saturating_duration_since(tokio::time::Instant::now());
    assert!((Duration::from_secs(68)..=Duration::from_secs(70)).contains(&left), "with the leeway: {left:?}");
    let expires = rights.expires_at.unwrap() / 1_000;
    assert!((now() + 58..=now() + 60).contains(&expires));

    let told = json!({"tertulia": {"read": ["Dogs", "*"], "read_prefixes": ["team-"], "post": []}});
    let rights = shown(&auth, &token(told)).unwrap().rights.unwrap();
    assert_eq!(rights.read, Groups::of(["Dogs", "*"], ["team-"]).unwrap());
    assert_eq!(rights.post, Groups::none());
    let rights = shown(&auth, &token(json!({"tertulia": {"post_prefixes": ["x"]}}))).unwrap().rights.unwrap();
    assert_eq!((rights.read, rights.post), (Groups::all(), Groups::of([], ["x"]).unwrap()));
    let endless = shown(&auth, &token(json!({"exp": 1e19}))).unwrap().rights.unwrap();
    assert_eq!((endless.until, endless.expires_at), (None, None));
}

#[test]
fn who_shows_a_token_is_whose_it_is() {
    let auth = auth(Config::default());
    let token = token(json!({}));
    let user = decide(&auth, &hello(Some("ada"), Some(&token))).unwrap().user;
    assert_eq!(auth.refresh(&user, None, &token).unwrap().read, Groups::all());
    let error = decide(&auth, &hello(Some("bob"), Some(&token))).unwrap_err();
    assert_eq!(
        (error.code(), &*error.to_string()),
        (Code::Unauthenticated, "the token is of user 'ada', not of 'bob'")
    );
    let bob = NameRules::user("bob").unwrap();
    assert!(matches!(auth.refresh(&bob, None, &token), Err(Refused::OtherUser { .. })));
    let nobody = [hello(None, None), hello(Some("ada"), None)].map(|hello| decide(&auth, &hello));
    for nobody in nobody.into_iter().chain([auth.nameless()]) {
        assert_eq!(nobody.unwrap_err(), Refused::Unproven(Proof::Token));
    }
}

#[test]
fn guests_are_let_in_where_that_is_wanted_but_not_under_a_name() {
    let config =
        Config { guests: true, guest_read: "Lobby, News*".to_owned(), guest_post: String::new(), ..Config::default() };
    let auth = auth(config);
    let guest = auth.nameless().unwrap();
    let rights = *guest.rights.unwrap();
    assert!(guest.user.as_str().starts_with("guest-"));
    assert_eq!((rights.read.clone(), rights.post.clone()), (Groups::of(["Lobby"], ["News"]).unwrap(), Groups::none()));
    assert_eq!((rights.until, rights.expires_at), (None, None));
    assert_eq!(decide(&auth, &hello(Some("ada"), None)).unwrap_err(), Refused::UnprovenName(Proof::Token));
    let refused = auth.refresh(&guest.user, Some(&rights), &token(json!({}))).unwrap_err();
    assert_eq!((refused.code(), refused), (Code::BadRequest, Refused::Guest));
    // Who shows a token wants to be more than a guest.
    assert_eq!(shown(&auth, "nonsense").unwrap_err(), Refused::Token(Fault::Malformed));
}

#[test]
fn a_token_that_is_not_right_proves_nothing_and_is_told_why() {
    let auth = auth(Config::default());
    let fault = |token: String| match shown(&auth, &token) {
        Err(Refused::Token(fault)) => fault,
        other => panic!("{token}: {other:?}"),
    };
    let good = token(json!({}));
    let (signed_part, signature) = good.rsplit_once('.').unwrap();
    let forged = token(json!({"sub": "eve"}));
    let others_claims = forged.rsplit_once('.').unwrap().0;
    assert_eq!(fault(format!("{others_claims}.{signature}")), Fault::Signature);
    assert_eq!(fault(format!("{signed_part}.")), Fault::Signature);
    assert_eq!(fault(signed_part.to_owned()), Fault::Malformed);
    for malformed in ["", "a.b", "a.b.c", "....", "\u{feff}a.b.c"] {
        assert_eq!(fault(malformed.to_owned()), Fault::Malformed, "{malformed:?}");
    }
    // {"alg":"none"}, without a signature.
    let claims_part = good.split('.').nth(1).unwrap();
    assert_eq!(fault(format!("eyJhbGciOiJub25lIn0.{claims_part}.")), Fault::UnknownKey);
    let long = Header { kid: Some("x".repeat(3_000)), ..Header::new(Algorithm::HS256) };
    assert_eq!(fault(signed(&long, &EncodingKey::from_secret(SECRET).unwrap(), json!({}))), Fault::Malformed);

    let past = now() - 11;
    assert_eq!(fault(token(json!({"exp": past}))), Fault::Expired);
    assert_eq!(fault(token(json!({"exp": -1}))), Fault::Claim("exp".to_owned()));
    for wrong in [json!({"exp": null}), json!({"exp": "tomorrow"}), json!({"exp": -1.5})] {
        assert_eq!(fault(token(wrong)), Fault::Claim("exp".to_owned()));
    }
    assert!(matches!(fault(token(json!({"sub": ["ada"]}))), Fault::Claims(_)));
    assert_eq!(fault(token(json!({"nbf": now() + 30}))), Fault::Early);
    assert!(matches!(fault(token(json!({"sub": "@system"}))), Fault::Subject(_)));
    assert!(matches!(fault(token(json!({"sub": ""}))), Fault::Subject(_)));
    assert_eq!(fault(token(json!({"aud": "shop"}))), Fault::Audience, "for somebody else");
    // What is misspelt, or of another form, must not mean everything.
    for wrong in [
        json!({"raed": []}),
        json!({"read_prefixes": null}),
        json!([]),
        json!(null),
        json!({"read": null}),
        json!({"post": "Dogs"}),
        json!({"post": [7]}),
    ] {
        assert_eq!(fault(token(json!({"tertulia": wrong}))), Fault::Rights, "{wrong}");
    }
    assert!(matches!(fault(token(json!({"tertulia": {"read_prefixes": [""]}}))), Fault::Groups { list: "read", .. }));
    let twice = format!(r#"{{"sub":"ada","exp":{},"tertulia":{{"read":[]}},"tertulia":{{}}}}"#, now() + 60);
    let twice: Box<RawValue> = serde_json::from_str(&twice).unwrap();
    let twice = encode(&Header::new(Algorithm::HS256), &twice, &EncodingKey::from_secret(SECRET).unwrap()).unwrap();
    assert!(matches!(fault(twice), Fault::Claims(_)));
    let error = fault(token(json!({"tertulia": {"post": [" x"]}})));
    assert!(error.to_string().ends_with(r#"of 'post' cannot be used: " x" cannot be the name of a group"#), "{error}");
    let without = |claim: &str| {
        let mut told = claims(json!({}));
        told.as_object_mut().unwrap().remove(claim);
        fault(encode(&Header::new(Algorithm::HS256), &told, &EncodingKey::from_secret(SECRET).unwrap()).unwrap())
    };
    assert_eq!(without("exp"), Fault::Claim("exp".to_owned()));
    assert_eq!(without("sub"), Fault::Claim("sub".to_owned()));
}

#[test]
fn who_issued_a_token_and_for_whom_can_be_asked_for() {
    let config = Config { issuer: "https://id.example".to_owned(), audience: "chat".to_owned(), ..Config::default() };
    let auth = auth(config);
    let shown = |told| shown(&auth, &token(told)).map(|principal| principal.user.to_string());
    let right = json!({"iss": "https://id.example", "aud": ["shop", "chat"]});
    assert_eq!(shown(right), Ok("ada".to_owned()));
    assert_eq!(shown(json!({"iss": "https://evil.example", "aud": "chat"})), Err(Refused::Token(Fault::Issuer)));
    assert_eq!(shown(json!({"iss": "https://id.example", "aud": "shop"})), Err(Refused::Token(Fault::Audience)));
    assert_eq!(shown(json!({"aud": "chat"})), Err(Refused::Token(Fault::Claim("iss".to_owned()))));
    assert_eq!(shown(json!({"iss": "https://id.example"})), Err(Refused::Token(Fault::Claim("aud".to_owned()))));
}

/// A key of that kind: what signs, and its public part in PEM.
fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (rcgen::KeyPair, String) {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let public = pair.public_key_pem();
    (pair, public)
}

#[test]
fn keys_of_every_kind_are_read_from_jwk_and_from_pem() {
    let (p256, p256_pem) = pair(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (p384, p384_pem) = pair(&rcgen::PKCS_ECDSA_P384_SHA384);
    let (ed, ed_pem) = pair(&rcgen::PKCS_ED25519);
    let (rsa, rsa_pem) = pair(&rcgen::PKCS_RSA_SHA256);
    let of = |from: fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>, pair: &rcgen::KeyPair| {
        from(pair.serialize_pem().as_bytes()).unwrap()
    };
    let signers = [
        (Algorithm::ES256, of(EncodingKey::from_ec_pem, &p256)),
        (Algorithm::ES384, of(EncodingKey::from_ec_pem, &p384)),
        (Algorithm::EdDSA, of(EncodingKey::from_ed_pem, &ed)),
        (Algorithm::RS256, of(EncodingKey::from_rsa_pem, &rsa)),
        (Algorithm::PS512, of(EncodingKey::from_rsa_pem, &rsa)),
    ];
    let pem = auth_of(&format!("of 2026\n{p256_pem}{p384_pem}\n{ed_pem}{rsa_pem}"), Config::default()).unwrap();
    let public = [
        DecodingKey::from_ec_pem(p256_pem.as_bytes()),
        DecodingKey::from_ec_pem(p384_pem.as_bytes()),
        DecodingKey::from_ed_pem(ed_pem.as_bytes()),
        DecodingKey::from_rsa_pem(rsa_pem.as_bytes()),
    ];
    // Without an `alg` that of RSA serves for each of its algorithms.
    let keys = public.map(|key| Jwk::from_decoding_key(&key.unwrap(), None).unwrap());
    let set = auth_of(&json!({"keys": keys}).to_string(), Config::default()).unwrap();
    for (algorithm, key) in &signers {
        let token = signed(&Header::new(*algorithm), key, json!({}));
        for auth in [&pem, &set] {
            assert!(shown(auth, &token).is_ok(), "{algorithm:?}: {:?}", shown(auth, &token));
        }
    }
    // Its public key is no secret with which to sign.
    let confused =
        signed(&Header::new(Algorithm::HS256), &EncodingKey::from_secret(rsa_pem.as_bytes()).unwrap(), json!({}));
    for auth in [&pem, &set] {
        assert_eq!(shown(auth, &confused).unwrap_err(), Refused::Token(Fault::UnknownKey));
    }
    let strange = signed(
        &Header::new(Algorithm::ES256),
        &of(EncodingKey::from_ec_pem, &pair(&rcgen::PKCS_ECDSA_P256_SHA256).0),
        json!({}),
    );
    assert_eq!(shown(&pem, &strange).unwrap_err(), Refused::Token(Fault::Signature));
}

#[test]
fn a_token_may_name_its_key() {
    let keys = [b'a', b'b'].map(|byte| EncodingKey::from_secret(&[byte; 32]).unwrap());
    let named = |place: usize, name| jwk(&keys[place], Algorithm::HS256, Some(name));
    let set = json!({"keys": [named(0, "old"), named(1, "new"), {"kty": "oct", "k": "AA", "use": "enc"}, {"kty": "quantum"}]});
    let auth = auth_of(&set.to_string(), Config::default()).unwrap();
    let by = |place: usize, id: Option<&str>| {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        shown(&auth, &signed(&header, &keys[place], json!({}))).map(drop)
    };
    assert_eq!([by(0, Some("old")), by(1, Some("new")), by(0, None), by(1, None)], [const { Ok(()) }; 4]);
    assert_eq!(by(0, Some("new")), Err(Refused::Token(Fault::Signature)));
    assert_eq!(by(0, Some("other")), Err(Refused::Token(Fault::UnknownKey)));
    // It is for one algorithm alone.
    let token = signed(&Header::new(Algorithm::HS512), &keys[0], json!({}));
    assert_eq!(shown(&auth, &token).unwrap_err(), Refused::Token(Fault::UnknownKey));
}

#[test]
fn a_file_of_keys_that_cannot_be_used_is_an_error_that_names_it_and_the_key() {
    let error = |content: &str| auth_of(content, Config::default()).unwrap_err();
    let short = secret(b"too short");
    let (private, public) = pair(&rcgen::PKCS_ED25519);
    for (content, expected) in [
        ("", "FILE (auth.keys_file) must be a JWK Set (JSON) or public keys in PEM: it is neither"),
        ("{\"keys\": []}", "there is no key for signatures in FILE (auth.keys_file)"),
        ("{\"keys\": [{\"kty\": \"quantum\"}]}", "there is no key for signatures in FILE (auth.keys_file)"),
        (
            &short.to_string(),
            "key 1 of FILE (auth.keys_file) cannot be used: a secret must have at least 32 bytes, this one has 9",
        ),
        (
            &format!("{public}{}", private.serialize_pem()),
            "key 2 of FILE (auth.keys_file) cannot be used: it is a private key: give the server the public one alone",
        ),
    ] {
        assert_eq!(error(content), expected);
    }
    assert!(
        error("{\"keys\": 1}").starts_with("FILE (auth.keys_file) must be a JWK Set (JSON) or public keys in PEM: ")
    );
    assert!(
        error("-----BEGIN PUBLIC KEY-----\n").contains("has no '-----END "),
        "{}",
        error("-----BEGIN PUBLIC KEY-----\n")
    );
    let broken = error("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    assert!(broken.contains("key 1 of FILE") && broken.contains("Ed25519"), "{broken}");
    let wrong = json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}).to_string();
    assert!(error(&wrong).ends_with("it is no point of its curve"));
    let bytes = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let nowhere = json!({"kty": "EC", "crv": "P-256", "x": bytes, "y": bytes}).to_string();
    assert!(error(&nowhere).ends_with("it is no point of its curve"));
    let weak = json!({"kty": "RSA", "n": format!("AAAA{}8", "_".repeat(170)), "e": "AQAB"}).to_string();
    assert!(error(&weak).ends_with("a key of RSA must have 2048 to 8192 bits, this one has 1024"), "{}", error(&weak));
    let private = json!({"kty": "OKP", "crv": "Ed25519", "x": bytes, "d": bytes}).to_string();
    assert!(error(&private).ends_with("give the server the public one alone"));
    let misplaced = error("{\"keys\": [\"s3cret\"]}");
    assert!(misplaced.ends_with("key 1 of FILE (auth.keys_file) cannot be used: it is no JWK"), "{misplaced}");
    // secp256k1, which is no curve of these.
    let other = "-----BEGIN PUBLIC KEY-----\nMFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEeb5mfvncu6xVoGKVzocLBwKb/NstzijZ\nWfKBWxb4F5hIOtp3JqPEZV2k+/wOEQio/Re0SKaFVBmcR9CP+xDUuA==\n-----END PUBLIC KEY-----\n";
    assert!(error(other).ends_with("it is no point of its curve"), "{}", error(other));
    let mixed = json!({"kty": "oct", "k": "AAAA", "alg": "RS256"}).to_string();
    assert!(error(&mixed).ends_with("its alg is RS256, which is not for such a key"));
    assert!(
        Auth::new(&Config { keys_file: Some("nowhere/keys".into()), ..Config::default() })
            .unwrap_err()
            .to_string()
            .contains("nowhere/keys")
    );
}

#[tokio::test]
async fn a_new_key_in_the_file_takes_the_place_of_the_old_one() {
    const NEVER: Duration = Duration::from_secs(30);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    fs::write(&file, secret(SECRET).to_string()).unwrap();
    let auth = Auth::new(&Config { keys_file: Some(file.clone()), ..Config::default() }).unwrap();
    let new = EncodingKey::from_secret(&[7; 32]).unwrap();
    let (old_token, new_token) = (token(json!({})), signed(&Header::new(Algorithm::HS256), &new, json!({})));
    assert!(shown(&auth, &new_token).is_err());
    let (reload, stop) = (Reload::default(), CancellationToken::new());
    let tasks = TaskTracker::new();
    auth.follow(&reload, Duration::from_millis(1), &stop, &tasks);
    // What cannot be used is passed over.
    for content in [String::new(), secret(&[7; 32]).to_string()] {
        let next = directory.path().join("next");
        fs::write(&next, content).unwrap();
        fs::rename(&next, &file).unwrap();
    }
    let looking = async {
        while shown(&auth, &new_token).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(NEVER, looking).await.expect("it is never taken up");
    assert_eq!(shown(&auth, &old_token).unwrap_err(), Refused::Token(Fault::Signature));
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
