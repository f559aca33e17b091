// The certified OpenID provider of npm (oidc-provider) as the company's identity provider in tests.
//
//   node provider.mjs --port 0 --redirect-uri https://doorward.localhost:8443/signin/callback
//     [--redirect-uri …]                 one more
//     [--backchannel-logout-uri URI]     where it tells the client that somebody signed out
//     [--certificate FILE --key FILE]    https instead of http
//     [--host 127.0.0.1]                 the name in the issuer
//     [--alg RS256|ES256]                of ID tokens
//     [--auth-method client_secret_basic|client_secret_post]
//     [--conform-id-token]               claims of scopes only at userinfo, as OIDC Core §5.4 has it
//     [--until-stdin-ends]               stop when the parent is gone
//
// Client `doorward` with secret `secret`; people alice, bob, carol, dave. `login_hint=NAME` signs in
// at once, else a small page asks. When it is ready it prints one line of JSON.
// Levers: POST /_test/disable/NAME, /_test/enable/NAME, /_test/groups/NAME (a JSON list),
// /_test/logout/NAME (back-channel logout of that person's sign-ins).
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { parseArgs } from "node:util";
import Provider, { interactionPolicy } from "oidc-provider";

const CLIENT_ID = "doorward";
const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "0" },
    host: { type: "string", default: "127.0.0.1" },
    "redirect-uri": { type: "string", multiple: true, default: [] },
    "backchannel-logout-uri": { type: "string" },
    certificate: { type: "string" },
    key: { type: "string" },
    alg: { type: "string", default: "RS256" },
    "auth-method": { type: "string", default: "client_secret_basic" },
    "conform-id-token": { type: "boolean", default: false },
    "until-stdin-ends": { type: "boolean", default: false },
  },
});
if (options["redirect-uri"].length === 0) {
  console.error("give at least one --redirect-uri");
  process.exit(2);
}

const person = (name, groups) => ({ name: `${name[0].toUpperCase()}${name.slice(1)} Example`, groups, disabled: false });
const people = new Map([
  ["alice", person("alice", ["engineering"])],
  ["bob", person("bob", ["engineering", "release-managers"])],
  ["carol", person("carol", ["security", "auditors"])],
  ["dave", person("dave", [])],
]);
/** Sign-ins by person, for back-channel logout. */
const signIns = new Map();

const findAccount = (_ctx, id) => {
  const found = people.get(id);
  if (!found || found.disabled) return undefined;
  const claims = () => ({
    sub: id,
    name: found.name,
    preferred_username: id,
    email: `${id}@example.com`,
    email_verified: true,
    groups: found.groups,
  });
  return { accountId: id, claims };
};

// Whoever is signed in here already and is named as somebody else signs in again.
const policy = interactionPolicy.base();
// Somebody who was disabled has no account any more, whatever their cookie says.
policy.get("login").checks.add(
  new interactionPolicy.Check("no_account", "the signed-in person is gone", (ctx) => {
    const gone = ctx.oidc.session.accountId && !ctx.oidc.account;
    return gone ? interactionPolicy.Check.REQUEST_PROMPT : interactionPolicy.Check.NO_NEED_TO_PROMPT;
  }),
);
policy.get("login").checks.add(
  new interactionPolicy.Check("other_hint", "another person is named", (ctx) => {
    const { session, params, result } = ctx.oidc;
    const differs = session.accountId && params.login_hint && params.login_hint !== session.accountId;
    return differs && !result?.login ? interactionPolicy.Check.REQUEST_PROMPT : interactionPolicy.Check.NO_NEED_TO_PROMPT;
  }),
);

const jwk = (kid, alg, pair) => ({ kid, alg, use: "sig", ...pair.privateKey.export({ format: "jwk" }) });
const configuration = {
  clients: [
    {
      client_id: CLIENT_ID,
      client_secret: "secret",
      redirect_uris: options["redirect-uri"],
      post_logout_redirect_uris: options["redirect-uri"].map((uri) => new URL("/", uri).href),
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: options["auth-method"],
      id_token_signed_response_alg: options.alg,
      ...(options["backchannel-logout-uri"] && {
        backchannel_logout_uri: options["backchannel-logout-uri"],
        backchannel_logout_session_required: true,
      }),
    },
  ],
  jwks: {
    keys: [
      jwk("rsa", "RS256", generateKeyPairSync("rsa", { modulusLength: 2048 })),
      jwk("ec", "ES256", generateKeyPairSync("ec", { namedCurve: "P-256" })),
    ],
  },
  ttl: {
    AccessToken: 3600,
    AuthorizationCode: 60,
    Grant: 86400,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 86400,
  },
  cookies: { keys: [randomBytes(32).toString("hex")] },
  // Groups come with `profile`, so that a client with the usual scopes has them.
  claims: {
    openid: ["sub", "sid"],
    email: ["email", "email_verified"],
    profile: ["name", "preferred_username", "groups"],
  },
  scopes: ["openid", "offline_access", "email", "profile"],
  conformIdTokenClaims: options["conform-id-token"],
  findAccount,
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed("refresh_token"),
  extraTokenClaims: (_ctx, token) => ({ groups: people.get(token.accountId)?.groups }),
  // The company has agreed for its people.
  async loadExistingGrant(ctx) {
    const { client, session, provider: own, result } = ctx.oidc;
    const known = result?.consent?.grantId ?? session.grantIdFor(client.clientId);
    if (known) return own.Grant.find(known);
    const grant = new own.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope("openid offline_access email profile");
    for (const resource of [ctx.oidc.params.resource].flat().filter(Boolean)) grant.addResourceScope(resource, "api");
    await grant.save();
    return grant;
  },
  interactions: { policy, url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  features: {
    devInteractions: { enabled: false },
    deviceFlow: { enabled: false },
    backchannelLogout: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true },
    // An access token for a named resource is a JWT (RFC 9068): usable as a bearer token elsewhere.
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_ctx, resource) => ({
        scope: "api",
        audience: resource,
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
  // Its own guard refuses loopback, where everything of a test lives.
  fetch: (url, init) => globalThis.fetch(url, { ...init, dispatcher: undefined }),
};

const secure = Boolean(options.certificate);
const server = secure
  ? https.createServer({ cert: readFileSync(options.certificate), key: readFileSync(options.key) })
  : http.createServer();

server.listen(Number(options.port), "127.0.0.1", () => {
  const issuer = `${secure ? "https" : "http"}://${options.host}:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  provider.on("authorization.success", (ctx) => {
    const { accountId } = ctx.oidc.session ?? {};
    if (!accountId) return;
    const sids = signIns.get(accountId) ?? new Set();
    signIns.set(accountId, sids.add(ctx.oidc.session.sidFor(CLIENT_ID)));
  });
  provider.on("server_error", (_ctx, error) => console.error(error));
  const rest = provider.callback();
  server.on("request", (request, response) => {
    route(provider, rest, request, response).catch((error) => {
      console.error(error);
      if (!response.headersSent) response.writeHead(500);
      response.end();
    });
  });
  console.log(
    JSON.stringify({ event: "ready", issuer, client_id: CLIENT_ID, client_secret: "secret", people: [...people.keys()] }),
  );
});

async function route(provider, rest, request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname.startsWith("/interaction/")) return interact(provider, request, response);
  const lever = /^\/_test\/(disable|enable|groups|logout)\/([a-z]+)$/.exec(pathname);
  if (lever && request.method === "POST") return pull(provider, lever[1], lever[2], request, response);
  return rest(request, response);
}

async function interact(provider, request, response) {
  const { prompt, params } = await provider.interactionDetails(request, response);
  if (prompt.name !== "login") {
    const result = { error: "access_denied", error_description: `this provider does not ask for ${prompt.name}` };
    return provider.interactionFinished(request, response, result);
  }
  const chosen = request.method === "POST" ? new URLSearchParams(await text(request)).get("name") : params.login_hint;
  const found = people.get(chosen);
  if (!found) {
    const buttons = [...people.keys()].map((name) => `<button name="name" value="${name}">${name}</button>`).join(" ");
    response.writeHead(200, { "content-type": "text/html; charset=utf-8" });
    return response.end(
      `<!doctype html><html lang="en"><title>Sign in</title><h1>Sign in</h1><form method="post">${buttons}</form></html>`,
    );
  }
  const result = found.disabled
    ? { error: "access_denied", error_description: "this person is disabled" }
    : { login: { accountId: chosen, amr: ["pwd"] } };
  return provider.interactionFinished(request, response, result);
}

async function pull(provider, what, name, request, response) {
  const found = people.get(name);
  if (!found) return response.writeHead(404).end();
  if (what === "disable" || what === "enable") found.disabled = what === "disable";
  if (what === "groups") found.groups = JSON.parse(await text(request));
  if (what === "logout") {
    const client = await provider.Client.find(CLIENT_ID);
    for (const sid of signIns.get(name) ?? []) await client.backchannelLogout(name, sid);
    signIns.delete(name);
  }
  return response.writeHead(204).end();
}

async function text(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString("utf8");
}

const stop = () => process.exit(0);
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
if (options["until-stdin-ends"]) process.stdin.on("end", stop).resume();
