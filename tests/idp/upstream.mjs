// An upstream that trusts nothing but what it can check: each request's `Doorward-Assertion`, with the
// stock JOSE library of npm (jose), against the door's `/oauth2/jwks` over HTTPS.
//
//   node upstream.mjs --until-stdin-ends
//
// When it is ready it prints one line of JSON. POST /_door {jwks, ca, issuer, port} tells it whom to
// trust; POST /_token {token, audience} checks an access token of the door (RFC 9068); GET /_fetches says
// how often the keys were fetched. Anything else is answered with the claims of its assertion, or 401.
import http from "node:http";
import https from "node:https";
import { createRemoteJWKSet, customFetch, jwtVerify } from "jose";

let door;
let fetches = 0;

// The door's name is one of loopback, which node does not resolve by itself.
function fetchAtDoor(url) {
  fetches += 1;
  return new Promise((done, failed) => {
    const { hostname, pathname } = new URL(url);
    const options = { host: "127.0.0.1", port: door.port, servername: hostname, path: pathname, ca: door.ca };
    const request = https.get({ ...options, headers: { host: `${hostname}:${door.port}` } }, async (answer) => {
      const pieces = [];
      for await (const piece of answer) pieces.push(piece);
      done(new Response(Buffer.concat(pieces), { status: answer.statusCode }));
    });
    request.on("error", failed);
  });
}

async function body(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return JSON.parse(Buffer.concat(pieces).toString());
}

function verify(token, audience, typ) {
  return jwtVerify(token, door.keys, { issuer: door.issuer, audience, typ, algorithms: ["ES256"] });
}

async function answer(request) {
  if (request.url === "/_door") {
    door = await body(request);
    door.keys = createRemoteJWKSet(new URL(door.jwks), { cooldownDuration: 0, [customFetch]: fetchAtDoor });
    return {};
  }
  if (request.url === "/_fetches") return { fetches };
  if (request.url === "/_token") {
    const { token, audience } = await body(request);
    const { payload, protectedHeader } = await verify(token, audience, "at+jwt");
    return { claims: payload, kid: protectedHeader.kid };
  }
  const { payload, protectedHeader } = await verify(request.headers["doorward-assertion"], door.audience, "JWT");
  return { claims: payload, kid: protectedHeader.kid };
}

const server = http.createServer(async (request, response) => {
  try {
    const said = JSON.stringify(await answer(request));
    response.writeHead(200, { "content-type": "application/json" }).end(said);
  } catch (error) {
    response.writeHead(401, { "content-type": "application/json" }).end(JSON.stringify({ error: `${error}` }));
  }
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
if (process.argv.includes("--until-stdin-ends")) {
  process.stdin.resume();
  process.stdin.on("end", () => process.exit(0));
}
