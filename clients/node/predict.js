#!/usr/bin/env node
// One request to a Trefoil server from Node: parts in the order given, the answer as one JSON
// object. Reads the contract itself, proto/inference.proto; nothing is generated.
//
//   node predict.js --server 127.0.0.1:8433 --text "knocking" --image station.jpg --audio hum.wav
//
// Exit codes are those of `server predict`.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { randomUUID } = require('node:crypto');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const PROTO_ROOT = path.resolve(__dirname, '..', '..');
const EXIT = { ok: 0, failed: 1, usage: 2, refusedInput: 3, notReady: 4, stampMismatch: 5 };
const HELP = `usage: node predict.js [options]

  --text TEXT, --image FILE, --audio FILE   the parts, in this order, any number of each
  --expected-stamp HEX    answer only from this stamp, all 64 digits; repeatable
  --slice NAME=VALUE      a tag for monitoring; repeatable
  --session ID            stay on one replica
  --deadline-ms MS        give up after this time (60000)
  --server HOST:PORT      address of the server (127.0.0.1:8433)
  --tls-ca PEM            call over TLS, trusting this CA
  --tls-cert PEM, --tls-key PEM   client certificate and its key
  --token-file FILE       call with the token in this file; needs TLS

exit codes: 0 answered, 2 wrong usage, 3 input refused, 4 server not reached, not
ready or not in time, 5 another stamp is served, 1 anything else`;

const many = { type: 'string', multiple: true, default: [] };
const OPTIONS = {
  text: many,
  image: many,
  audio: many,
  'expected-stamp': many,
  slice: many,
  session: { type: 'string', default: '' },
  'deadline-ms': { type: 'string', default: '60000' },
  server: { type: 'string', default: '127.0.0.1:8433' },
  'tls-ca': { type: 'string' },
  'tls-cert': { type: 'string' },
  'tls-key': { type: 'string' },
  'token-file': { type: 'string' },
  help: { type: 'boolean', default: false },
};

// gRPC's own retries: only what another moment can answer, never a refused input or stamp. Nor a
// full server: gRPC does not read the wait it names, which `predict` below does.
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [{ service: 'trefoil.v1.Inference', method: 'Predict' }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: '0.1s',
        maxBackoff: '2s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE'],
      },
    },
  ],
};

// A full server names a wait (google.rpc.RetryInfo). Callers that were given the same one must not
// come back at the same moment, so up to this share is added.
const SPREAD = 0.25;
const MOST_ATTEMPTS = 6;

// The messages of google/rpc/status.proto and error_details.proto that the wait is read from.
const rpc = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
`).root;

class UsageError extends Error {}

function main(args) {
  const { values, tokens } = parsed(args);
  if (values.help) {
    console.log(HELP);
    return EXIT.ok;
  }
  const client = clientOf(values);
  const request = requestOf(values, partsOf(tokens));
  const metadata = new grpc.Metadata();
  // What a ring hash or a mesh in between chooses a server by.
  metadata.set('session-id', values.session || request.request_id);
  const deadline = Date.now() + deadlineOf(values['deadline-ms']);
  return predict(client, request, metadata, deadline).then(
    (response) => answered(response),
    (error) => errorText(error, values.server),
  ).finally(() => client.close());
}

// All attempts share the deadline; no wait is begun that would pass it.
async function predict(client, request, metadata, deadline) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await once(client, request, metadata, deadline);
    } catch (error) {
      const waitMs = retryDelayMs(error) * (1 + SPREAD * Math.random());
      if (!waitMs || attempt >= MOST_ATTEMPTS || Date.now() + waitMs >= deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }
}

function once(client, request, metadata, deadline) {
  return new Promise((resolve, reject) => {
    client.Predict(request, metadata, { deadline }, (error, response) => {
      if (error) reject(error);
      else resolve(response);
    });
  });
}

// The wait that a full server names, in milliseconds; 0 for any other error.
function retryDelayMs(error) {
  if (error.code !== grpc.status.RESOURCE_EXHAUSTED) return 0;
  const [packed] = error.metadata.get('grpc-status-details-bin');
  if (!packed) return 0;
  const RetryInfo = rpc.lookupType('google.rpc.RetryInfo');
  for (const detail of rpc.lookupType('google.rpc.Status').decode(packed).details) {
    if (detail.typeUrl.endsWith('/google.rpc.RetryInfo')) {
      const { retryDelay } = RetryInfo.decode(detail.value);
      return 1000 * Number(retryDelay.seconds) + retryDelay.nanos / 1e6;
    }
  }
  return 0;
}

function parsed(args) {
  try {
    return parseArgs({ args, options: OPTIONS, tokens: true, allowPositionals: false });
  } catch (error) {
    throw new UsageError(error.message);
  }
}

function partsOf(tokens) {
  const parts = [];
  for (const { kind, name, value } of tokens) {
    if (kind !== 'option') continue;
    if (name === 'text') {
      parts.push({ modality: 'TEXT', text: value });
    } else if (name === 'image' || name === 'audio') {
      parts.push({ modality: name.toUpperCase(), data: read(name, value), id: path.basename(value) });
    }
  }
  if (parts.length === 0) throw new UsageError('give at least one of --text, --image and --audio');
  return parts;
}

function requestOf(values, parts) {
  const stamps = values['expected-stamp'];
  for (const stamp of stamps) {
    if (!/^[0-9a-f]{64}$/.test(stamp)) {
      throw new UsageError('--expected-stamp: a stamp is compared on all of its 64 hex digits');
    }
  }
  const slices = {};
  for (const tag of values.slice) {
    const [, name, value] = /^([^=]+)=(.+)$/.exec(tag) || [];
    if (!name) throw new UsageError(`--slice ${tag} is not NAME=VALUE`);
    slices[name] = value;
  }
  return {
    request_id: randomUUID(), // the same in every attempt
    examples: [{ parts, slices }],
    expected_stamps: stamps,
    session_id: values.session,
  };
}

function deadlineOf(text) {
  const ms = Number(text);
  if (!(ms > 0)) throw new UsageError(`--deadline-ms ${text} leaves no time`);
  return ms;
}

function clientOf(values) {
  const definition = protoLoader.loadSync('proto/inference.proto', {
    includeDirs: [PROTO_ROOT],
    keepCase: true,
    enums: String,
    defaults: true,
  });
  const { Inference } = grpc.loadPackageDefinition(definition).trefoil.v1;
  return new Inference(values.server, credentialsOf(values), {
    'grpc.service_config': JSON.stringify(SERVICE_CONFIG),
    'grpc.primary_user_agent': 'trefoil-node',
    'grpc.max_receive_message_length': -1,
  });
}

function credentialsOf(values) {
  if (!values['tls-ca']) {
    if (values['token-file'] || values['tls-cert'] || values['tls-key']) {
      throw new UsageError('--token-file and --tls-cert need --tls-ca: nothing of it is sent in plaintext');
    }
    return grpc.credentials.createInsecure();
  }
  const pem = (name) => (values[name] ? read(name, values[name]) : null);
  const tls = grpc.credentials.createSsl(pem('tls-ca'), pem('tls-key'), pem('tls-cert'));
  if (!values['token-file']) return tls;
  const token = read('token-file', values['token-file']).toString().trim();
  const bearer = grpc.credentials.createFromMetadataGenerator((_params, done) => {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    done(null, metadata);
  });
  return grpc.credentials.combineChannelCredentials(tls, bearer);
}

function read(name, file) {
  try {
    return fs.readFileSync(file);
  } catch (error) {
    throw new UsageError(`--${name} ${file}: ${error.code}`);
  }
}

function answered(response) {
  const [result] = response.results;
  const { prediction, timing } = result;
  const timings = {};
  for (const stage of ['queue', 'decode', 'preprocess', 'forward', 'post', 'total']) {
    timings[stage] = timing[`${stage}_ms`];
  }
  console.log(
    JSON.stringify({
      prediction_id: result.prediction_id,
      label: prediction.label,
      confidence: prediction.confidence,
      scores: Object.fromEntries(prediction.scores.map((s) => [s.label, s.probability])),
      stamp: result.stamp,
      stamp_name: response.stamp.name,
      timings_ms: timings,
      batch_size: result.batch_size,
      parts_used: result.parts_used.map(usedOf),
    }),
  );
  return EXIT.ok;
}

// How much of a part the model got: the fields that have a value, and `cut` always.
function usedOf(part) {
  const given = Object.entries(part).filter(([name, value]) => value || name === 'cut');
  return { ...Object.fromEntries(given), modality: part.modality.toLowerCase() };
}

function errorText(error, server) {
  const { status } = grpc;
  // The server's own refusals carry details; without them gRPC or the network refused.
  const ours = error.metadata.get('grpc-status-details-bin').length > 0;
  const name = status[error.code];
  console.error(
    error.code === status.UNAVAILABLE && !ours
      ? `no server at ${server}: ${error.details}`
      : `${server} answered ${name}: ${error.details}`,
  );
  if (error.code === status.FAILED_PRECONDITION) {
    console.error(`serving stamp: ${error.metadata.get('trefoil-stamp')[0]}`);
    return EXIT.stampMismatch;
  }
  const tooLarge = error.code === status.RESOURCE_EXHAUSTED && !ours;
  if (error.code === status.INVALID_ARGUMENT || tooLarge) return EXIT.refusedInput;
  const passing = [
    status.UNAVAILABLE,
    status.DEADLINE_EXCEEDED,
    status.RESOURCE_EXHAUSTED,
    status.CANCELLED,
  ];
  return passing.includes(error.code) ? EXIT.notReady : EXIT.failed;
}

async function run() {
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`predict.js: ${error.message}`);
    process.exitCode = EXIT.usage;
  }
}

run();
