<?php
// Calls Countersign from PHP 5.6 or later, and tells the three outcomes apart.
//   php pay.php query ORDERID            php pay.php submit ORDERID CENTS

$countersign = getenv('COUNTERSIGN') ?: 'http://127.0.0.1:8080';

// Returns array(kind, data). Kinds: 'answer' (verified JSON of the platform), 'page' (for the customer's browser),
// 'rejected' (no result: data tells why, and whether anything was sent).
function call_countersign($path, $fields)
{
    global $countersign;
    $context = stream_context_create(array('http' => array(
        'method' => 'POST',
        'content' => json_encode($fields),
        'header' => 'Content-Type: application/json',
        'timeout' => 40,            // longer than platform.timeout, so that Countersign answers first
        'follow_location' => 0,     // a redirect is for the customer's browser
        'ignore_errors' => true,    // rejections have a body, too
    )));
    $body = @file_get_contents($countersign . $path, false, $context);
    if ($body === false) {
        // No answer: it may have been sent. After a submit, query before you try again.
        return array('rejected', array('code' => 'no-answer', 'sent' => 'unknown', 'detail' => 'Countersign does not answer'));
    }
    $status = 0;
    $type = '';
    $sent = 'unknown';
    foreach ($http_response_header as $line) {
        if (preg_match('#^HTTP/\S+ (\d+)#', $line, $found)) {
            $status = (int) $found[1];
        } elseif (stripos($line, 'Content-Type:') === 0) {
            $type = trim(substr($line, 13));
        } elseif (stripos($line, 'countersign-sent:') === 0) {
            $sent = trim(substr($line, 17));
        }
    }
    $data = json_decode($body, true);
    if (strpos($type, 'application/problem+json') === 0) {
        return array('rejected', $data);
    }
    if ($status >= 400) {
        return array('rejected', array('code' => "status-$status", 'sent' => $sent, 'detail' => 'an error page'));
    }
    return is_array($data) ? array('answer', $data) : array('page', $body);
}

$action = $argv[1];
$fields = array('orderid' => $argv[2]);
if ($action === 'submit') {
    $fields += array('action' => 'AliPay', 'txnamt' => (int) $argv[3]);
}
list($kind, $data) = call_countersign($action === 'submit' ? '/api/icashier' : '/api/query', $fields);
if ($kind === 'rejected') {
    // sent: "no" = nothing left this machine, try again; "yes" = the platform answered; "unknown" = query first.
    echo "rejected: {$data['code']}, sent {$data['sent']}\n";
} elseif ($kind === 'page') {
    echo "page for the customer\n";
} elseif ($data['respcode'] !== '00') {
    // The platform itself says no, 25 (no such order) for example: that is no payment, and no error of yours.
    echo "platform: {$data['respcode']} {$data['respmsg']}\n";
} elseif ($data['resultcode'] === '0000') {
    echo "paid: {$data['orderid']} {$data['txnamt']}\n";
} else {
    echo "not paid: {$data['orderid']} {$data['resultcode']}\n";
}
