//! The example policies, carried in the binary so that `init` and `dev` need nothing else.

/// Path below `policies/` and text of each file.
pub const POLICIES: &[(&str, &str)] = &[
    ("database-admin/access.cedar", include_str!("../../policies/database-admin/access.cedar")),
    ("database-admin/service.toml", include_str!("../../policies/database-admin/service.toml")),
    ("database-admin/tests.toml", include_str!("../../policies/database-admin/tests.toml")),
    ("deploy-pipeline/access.cedar", include_str!("../../policies/deploy-pipeline/access.cedar")),
    ("deploy-pipeline/service.toml", include_str!("../../policies/deploy-pipeline/service.toml")),
    ("deploy-pipeline/tests.toml", include_str!("../../policies/deploy-pipeline/tests.toml")),
    ("global.cedar", include_str!("../../policies/global.cedar")),
    ("groups.toml", include_str!("../../policies/groups.toml")),
    ("legacy-wiki/access.cedar", include_str!("../../policies/legacy-wiki/access.cedar")),
    ("legacy-wiki/service.toml", include_str!("../../policies/legacy-wiki/service.toml")),
    ("legacy-wiki/tests.toml", include_str!("../../policies/legacy-wiki/tests.toml")),
    ("legacy-wiki/upstream-password", include_str!("../../policies/legacy-wiki/upstream-password")),
    ("metrics/access.cedar", include_str!("../../policies/metrics/access.cedar")),
    ("metrics/service.toml", include_str!("../../policies/metrics/service.toml")),
    ("metrics/tests.toml", include_str!("../../policies/metrics/tests.toml")),
    ("ops-api/access.cedar", include_str!("../../policies/ops-api/access.cedar")),
    ("ops-api/service.toml", include_str!("../../policies/ops-api/service.toml")),
    ("ops-api/tests.toml", include_str!("../../policies/ops-api/tests.toml")),
    ("tests.toml", include_str!("../../policies/tests.toml")),
    ("workloads.toml", include_str!("../../policies/workloads.toml")),
];
