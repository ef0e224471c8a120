//! The clients that legacy apps use, as they are: each posts plain JSON and gets the plain JSON back.

use crate::documented::{Class, the};
use crate::harness::{
    KEY, MERID, ORDERID, Sidecar, fresh_orderid, is_installed, query_json, skip, submit_json,
};
use crate::platform::{PAGE, Platform, full_answer};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

fn started() -> (Platform, Sidecar, String) {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let url = format!("http://{}/api/query", sidecar.app());
    (platform, sidecar, url)
}

/// Runs the client; it must end well, print the answer to the last query, and not have waited for anything.
#[track_caller]
fn gets_the_answer(platform: &Platform, patience: Duration, command: &mut Command) {
    let began = Instant::now();
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    assert_eq!(said, full_answer(&platform.last()), "{complaint}");
    assert!(began.elapsed() < patience, "{:?}", began.elapsed());
}

const QUICK: Duration = Duration::from_secs(10);

#[test]
fn curl_gets_its_answer() {
    if !is_installed("curl") {
        return skip("curl_gets_its_answer", "curl is not installed");
    }
    let (platform, _sidecar, url) = started();
    let body = query_json(MERID, ORDERID);
    let with = |further: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
        curl.args(further).args(["--data-binary", &body, &url]);
        curl
    };
    for further in [
        &[][..],
        &["-H", "Content-Type: application/json"],
        &["-H", "Transfer-Encoding: chunked"],
        &["-H", "Expect: 100-continue", "--expect100-timeout", "30"],
        &["--http1.0"],
    ] {
        gets_the_answer(&platform, QUICK, &mut with(further));
    }
    // Two calls by one process use one connection.
    let mut twice = with(&["-w", "%{num_connects}"]);
    let output = twice
        .args(["--next", "-s", "-w", "%{num_connects}", "-d", &body, &url])
        .output();
    let said = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    assert!(said.contains("}1{") && said.ends_with("}0"), "{said}");
}

#[test]
fn php_gets_its_answer() {
    if !is_installed("php") {
        return skip("php_gets_its_answer", "php is not installed");
    }
    let (platform, _sidecar, url) = started();
    let body = query_json(MERID, ORDERID);
    let php = |code: &str| {
        let mut php = Command::new("php");
        php.args(["-r", code, "--", &url, &body]);
        php
    };
    let by_stream = "echo file_get_contents($argv[1], false, stream_context_create(['http' => [
        'method' => 'POST', 'header' => 'Content-Type: application/json', 'content' => $argv[2]]]));";
    gets_the_answer(&platform, QUICK, &mut php(by_stream));
    let has_curl = php("exit(function_exists('curl_init') ? 0 : 1);")
        .status()
        .unwrap();
    if !has_curl.success() {
        return skip("php_gets_its_answer", "php has no curl extension");
    }
    let by_curl = "$c = curl_init($argv[1]);
        curl_setopt_array($c, [CURLOPT_POST => true, CURLOPT_POSTFIELDS => $argv[2],
            CURLOPT_RETURNTRANSFER => true, CURLOPT_PROXY => '']);
        for ($i = 0; $i < 3; $i++) $answer = curl_exec($c);
        if (curl_getinfo($c, CURLINFO_RESPONSE_CODE) != 200) exit(1);
        echo $answer;";
    gets_the_answer(&platform, QUICK, &mut php(by_curl));
}

#[test]
fn java_gets_its_answer() {
    const CODE: &str = r#"
import java.io.*;
import java.net.*;
public class Post {
    public static void main(String[] a) throws Exception {
        byte[] answer = null;
        for (int i = 0; i < 3; i++) {
            HttpURLConnection c = (HttpURLConnection) new URL(a[0]).openConnection(Proxy.NO_PROXY);
            c.setRequestMethod("POST");
            c.setDoOutput(true);
            c.setRequestProperty("Content-Type", "application/json");
            c.getOutputStream().write(a[1].getBytes("UTF-8"));
            if (c.getResponseCode() != 200) throw new IOException("status " + c.getResponseCode());
            answer = c.getInputStream().readAllBytes();
        }
        System.out.write(answer, 0, answer.length);
        System.out.flush();
    }
}
"#;
    if !is_installed("java") {
        return skip("java_gets_its_answer", "java is not installed");
    }
    let (platform, _sidecar, url) = started();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Post.java");
    fs::write(&file, CODE).unwrap();
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        .arg(&file);
    let probe = Command::new("java").arg("--list-modules").output().unwrap();
    if !String::from_utf8_lossy(&probe.stdout).contains("jdk.compiler") {
        return skip("java_gets_its_answer", "this java cannot run a source file");
    }
    // Compiling comes first and takes what it takes.
    let patience = Duration::from_secs(60);
    gets_the_answer(
        &platform,
        patience,
        java.args([url, query_json(MERID, ORDERID)]),
    );
}

#[test]
fn python_gets_its_answer() {
    const CODE: &str = "
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
answer = opener.open(sys.argv[1], sys.argv[2].encode())
assert answer.headers['countersign-verified'] == 'true'
sys.stdout.buffer.write(answer.read())
";
    if !is_installed("python3") {
        return skip("python_gets_its_answer", "python3 is not installed");
    }
    let (platform, _sidecar, url) = started();
    let body = query_json(MERID, ORDERID);
    let mut python = Command::new("python3");
    gets_the_answer(&platform, QUICK, python.args(["-c", CODE, &url, &body]));
}

#[test]
fn the_readme_s_call_works_as_it_is_shown() {
    let name = "the_readme_s_call_works_as_it_is_shown";
    let (platform, sidecar, _) = started();
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, file: &str, code: String| {
        if !is_installed(program) {
            return skip(name, &format!("{program} is not installed"));
        }
        fs::write(folder.path().join(file), code).unwrap();
        let mut command = Command::new(program);
        command.current_dir(&folder).arg(file);
        gets_the_answer(&platform, Duration::from_secs(60), &mut command);
    };
    let php = the(Class::PhpCall).text();
    assert!(php.contains("http://127.0.0.1:8080/"));
    let php = php.replace(
        "http://127.0.0.1:8080",
        &format!("http://{}", sidecar.app()),
    );
    // The example prints the outcome; its variable still has the answer.
    let php = format!(
        "<?php ob_start(); {php} $said = ob_get_clean(); echo $said === 'paid' ? $answer : $said;"
    );
    run("php", "a.php", php);
}

#[test]
fn a_client_that_asks_for_no_page_still_sees_the_submit_s_page() {
    if !is_installed("curl") {
        let name = "a_client_that_asks_for_no_page_still_sees_the_submit_s_page";
        return skip(name, "curl is not installed");
    }
    let (_platform, sidecar, _) = started();
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
            "--data-binary",
        ])
        .args([
            submit_json(&fresh_orderid()),
            format!("http://{}/api/icashier", sidecar.app()),
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), PAGE);
}
