//! Trying a provider's token endpoint (contract admin-audit §5.5), against a real one.

use crate::common::{Answer, Bench, bench_calling, id};
use crate::idp::{CLIENT_SECRET, Idp};
use serde_json::{Value, json};

const SERVICE: &str = "oauth2_client_credentials";
const PERSON: &str = "oauth2_authorization_code";

struct Setting {
    idp: Idp,
    bench: Bench,
    path: String,
}

async fn setting() -> Setting {
    let idp = Idp::start().await;
    let bench = bench_calling(idp.https.egress()).await;
    let zone = bench.zone("Z").await;
    Setting { idp, bench, path: format!("/v1/zones/{zone}/providers") }
}

impl Setting {
    fn service(&self, more: &Value) -> Value {
        let mut config = json!({
            "token_endpoint": self.idp.https.url("/token"), "client_id": "c", "client_secret": CLIENT_SECRET,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    async fn create(&self, kind: &str, config: &Value, check: bool) -> Answer {
        let body = json!({ "name": "P", "kind": kind, "config_json": config, "check": check });
        self.bench.post(&self.path, body).await
    }

    /// Tries a provider that is there: the status of the trial, and whether the row says that it failed.
    async fn test(&self, provider: &str) -> (String, bool) {
        let path = format!("{}/{provider}", self.path);
        let checked = self.bench.post(&format!("{path}/test"), json!({})).await.ok();
        let members: Vec<&String> = checked.as_object().unwrap().keys().collect();
        assert_eq!(members, ["checked_at", "detail", "status"]);
        let row = self.bench.get(&path).await.ok();
        (checked["status"].as_str().unwrap().to_owned(), !row["connectivity_failed_at"].is_null())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_5_what_a_trial_says() {
    let setting = setting().await;
    let service = setting.service(&json!({}));
    let made = id(&setting.create(SERVICE, &service, false).await.ok());
    let person = id(&setting.create(PERSON, &setting.idp.config(&json!({})), false).await.ok());
    let row = setting.bench.get(&format!("{}/{made}", setting.path)).await.ok();
    assert!(row["connectivity_failed_at"].is_string(), "until it was tried, nobody knows that it works");
    let denied = |code: &str| json!({ "error": code, "error_description": "hunter2" });
    let cases = [
        (&made, 200, json!({ "access_token": "t" }), "ok"),
        (&made, 401, json!({}), "auth_failed"),
        (&made, 400, denied("invalid_client"), "auth_failed"),
        (&made, 400, denied("invalid_scope"), "endpoint_error"),
        (&made, 200, json!({}), "endpoint_error"),
        (&person, 400, denied("invalid_grant"), "ok"),
        (&person, 400, denied("invalid_client"), "auth_failed"),
        (&person, 200, json!({ "access_token": "t" }), "endpoint_error"),
    ];
    for (provider, status, body, expected) in cases {
        setting.idp.says(status, body.clone());
        let (found, failed) = setting.test(provider).await;
        assert_eq!((found.as_str(), failed), (expected, expected != "ok"), "{body}");
    }
    let records = setting.bench.get(&setting.path.replace("providers", "admin-audit")).await.ok();
    assert!(!records.to_string().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_5_5_trials_when_a_provider_is_made() {
    let setting = setting().await;
    setting.idp.says(401, json!({ "error": "invalid_client" }));
    let refused = setting.create(SERVICE, &setting.service(&json!({})), true).await;
    assert_eq!(refused.code(), (422, "provider_check_failed"));
    assert_eq!(refused.body["details"]["check"]["status"], "auth_failed");
    assert_eq!(setting.bench.number("SELECT COUNT(*) FROM providers").await, 0, "nothing is made");
    setting.idp.says(200, json!({ "access_token": "t" }));
    let made = setting.create(SERVICE, &setting.service(&json!({})), true).await.ok();
    assert_eq!(made["connectivity_failed_at"], Value::Null);
    let elsewhere = setting.service(&json!({ "token_endpoint": "https://nowhere.invalid/token" }));
    let refused = setting.create(SERVICE, &elsewhere, true).await;
    assert_eq!(refused.body["details"]["check"]["status"], "unreachable");
    assert!(!refused.body.to_string().contains(CLIENT_SECRET));
    let key = json!({ "header_name": "X", "api_key": "k" });
    assert_eq!(setting.create("api_key", &key, true).await.code(), (400, "provider_check_unsupported"));
    let keyed = id(&setting.create("api_key", &key, false).await.ok());
    let path = format!("{}/{keyed}/test", setting.path);
    assert_eq!(setting.bench.post(&path, json!({})).await.code(), (400, "provider_check_unsupported"));
    let path = format!("{}/none/test", setting.path);
    assert_eq!(setting.bench.post(&path, json!({})).await.code(), (404, "provider_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_admin_2_5_ten_trials_a_minute_and_zone() {
    let setting = setting().await;
    let made = id(&setting.create(SERVICE, &setting.service(&json!({})), false).await.ok());
    let path = format!("{}/{made}/test", setting.path);
    // Twenty-one in a row are more than ten in one of the two minutes that they can fall into.
    let mut refused = 0;
    for _ in 0..21 {
        let answer = setting.bench.post(&path, json!({})).await;
        if !answer.status.is_success() {
            assert_eq!(answer.code(), (429, "provider_test_rate_limited"));
            refused += 1;
        }
    }
    assert!(refused > 0);
    let asked = setting.idp.asked.lock().unwrap().len();
    assert!((10..=20).contains(&asked), "{asked}");
}
