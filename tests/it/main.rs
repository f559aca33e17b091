//! The tests of the house: one binary, one module a topic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unreachable,
    clippy::disallowed_methods,
    reason = "a test that panics is a test that fails"
)]

mod access_api;
mod access_compared;
mod access_ledger;
mod access_rules;
mod access_steps;
mod access_world;
mod api;
mod api_attacks;
mod api_house;
mod approval_standing;
mod attacks;
mod audit_exceptions;
mod audit_foreign;
mod audit_format;
mod audit_gone;
mod audit_independent;
mod audit_report;
mod audit_schema;
mod audit_stream;
mod audit_stream_http;
mod audit_stream_killed;
mod audit_tamper;
mod audit_tree;
mod audit_tree_check;
mod audit_verify;
mod audit_view;
mod audit_workbook;
mod away;
mod body_pace;
mod canonical;
mod cli;
mod client_chain;
mod clock;
mod config;
mod console;
mod console_forms;
mod console_requests;
mod corpora;
mod crash;
mod credentials;
mod demo;
mod dev_again;
mod dev_provider;
mod dev_upstream;
mod disk;
mod doctor;
mod door;
mod emergency_review;
mod erasure;
mod fake_provider;
mod fuzz_replay;
mod grant_circumstances;
mod grant_crash;
mod grant_extension;
mod grant_lag;
mod grant_month;
mod grant_properties;
mod grant_rules;
mod guard_h1;
mod guard_h2;
mod house;
mod hygiene;
mod idempotency;
mod jose_vectors;
mod leaf;
mod limbo;
mod log_secrets;
mod mail_sink;
mod notice_api;
mod notice_people;
mod notify;
mod oauth;
mod outbound;
mod policy;
mod policy_command;
mod policy_diff;
mod policy_load;
mod policy_replay;
mod policy_route;
mod postgres;
mod program;
mod provider;
mod recorder;
mod remedies;
mod return_to;
mod review_api;
mod review_state;
mod revocation;
mod serve_refusals;
mod session;
mod session_idle;
mod sign_in;
mod sign_in_certified;
mod sign_in_dev;
mod sign_in_scene;
mod signing_key;
mod spool;
mod store_record;
mod supply;
mod support;
mod syslog_sink;
mod upstream_health;
mod worst_day;
