// Calls Countersign from Node.js 18 or later, tells the three outcomes apart, and takes results.
//   node pay.js query ORDERID      node pay.js submit ORDERID CENTS      node pay.js serve PORT

const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');

const countersign = process.env.COUNTERSIGN || 'http://127.0.0.1:8080';
const token = process.env.BACK_TOKEN || ''; // `back_token` of the merchants file
const orders = process.env.ORDERS || os.tmpdir();

// Resolves to [kind, data]: 'answer' (verified JSON of the platform), 'page' (for the customer's browser) or 'rejected'
// (no result: data tells why, and whether anything was sent).
async function call(endpoint, fields) {
  let response, body;
  try {
    response = await fetch(countersign + endpoint, {
      method: 'POST',
      body: JSON.stringify(fields),
      redirect: 'manual', // a redirect is for the customer's browser
      signal: AbortSignal.timeout(40_000), // longer than platform.timeout, so that Countersign answers first
    });
    body = await response.text();
  } catch (error) {
    // No answer: it may have been sent. After a submit, query before you try again.
    return ['rejected', { code: 'no-answer', sent: 'unknown', detail: String(error) }];
  }
  if ((response.headers.get('content-type') || '').startsWith('application/problem+json')) {
    return ['rejected', JSON.parse(body)];
  }
  if (response.status >= 400) {
    return ['rejected', { code: `status-${response.status}`, sent: response.headers.get('countersign-sent') || 'unknown' }];
  }
  try {
    return ['answer', JSON.parse(body)];
  } catch {
    return ['page', body];
  }
}

function tell([kind, data]) {
  // sent: "no" = nothing left this machine, try again; "yes" = the platform answered; "unknown" = query first.
  if (kind === 'rejected') return `rejected: ${data.code}, sent ${data.sent}`;
  if (kind === 'page') return 'page for the customer';
  // The platform itself says no, 25 (no such order) for example: that is no payment, and no error of yours.
  if (data.respcode !== '00') return `platform: ${data.respcode} ${data.respmsg}`;
  if (data.resultcode === '0000') return `paid: ${data.orderid} ${data.txnamt}`;
  return `not paid: ${data.orderid} ${data.resultcode}`;
}

// Anybody can post JSON to this page. Only Countersign knows the token; hashes have equal lengths.
function isCountersign(request) {
  const hash = (text) => crypto.createHash('sha256').update(text).digest();
  return token !== '' && crypto.timingSafeEqual(hash(request.headers['countersign-token'] || ''), hash(token));
}

// The page that the merchant's `back` names.
function back(request, response) {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const reply = (status, words) => response.writeHead(status, { 'content-type': 'text/plain' }).end(words);
    if (!isCountersign(request)) return reply(403, 'not Countersign');
    const result = JSON.parse(Buffer.concat(chunks).toString());
    const event = request.headers['countersign-event'] || '';
    if (!/^[0-9a-f]+$/.test(event)) return reply(400, 'no event');
    // A late 1001 after 0000 says so: it must not turn a paid order into an unpaid one.
    const late = request.headers['countersign-superseded'] ? 'late' : 'current';
    try {
      // The same result can come again, under the same id: book each id once. In a shop this is a table with a unique
      // key, filled in the same transaction as the order.
      const line = `${result.orderid} ${result.txnamt} ${result.resultcode} ${late}\n`;
      fs.writeFileSync(path.join(orders, event), line, { flag: 'wx' });
    } catch (error) {
      if (error.code !== 'EEXIST') return reply(500, 'not booked');
    }
    return reply(200, '0000'); // only now: the result is booked
  });
}

const [verb, first, cents] = process.argv.slice(2);
if (verb === 'serve') {
  http.createServer({ requestTimeout: 10_000 }, back).listen(Number(first), '127.0.0.1');
} else if (verb === 'submit') {
  call('/api/icashier', { action: 'AliPay', txnamt: Number(cents), orderid: first }).then((it) => console.log(tell(it)));
} else {
  call('/api/query', { orderid: first }).then((it) => console.log(tell(it)));
}
