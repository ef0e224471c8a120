<?php
// Takes results from Countersign: the page that the merchant's `back` names.
//   php -S 127.0.0.1:9000 back.php

$token = getenv('BACK_TOKEN');      // `back_token` of the merchants file
$orders = getenv('ORDERS') ?: sys_get_temp_dir();

function reply($status, $words)
{
    http_response_code($status);
    header('Content-Type: text/plain');
    exit($words);
}

// Anybody can post JSON to this page. Only Countersign knows the token.
$given = isset($_SERVER['HTTP_COUNTERSIGN_TOKEN']) ? $_SERVER['HTTP_COUNTERSIGN_TOKEN'] : '';
if (!$token || !hash_equals($token, $given)) {
    reply(403, 'not Countersign');
}
$result = json_decode(file_get_contents('php://input'), true);
if (!is_array($result) || !isset($result['orderid'], $result['resultcode'])) {
    reply(400, 'no result');
}
// The same result can come again, under the same id: book each id once. In a shop this is a table with a unique key,
// filled in the same transaction as the order.
$event = preg_replace('/[^0-9a-f]/', '', $_SERVER['HTTP_COUNTERSIGN_EVENT']);
$once = @fopen("$orders/$event", 'x');
if ($once !== false) {
    // A late 1001 after 0000 says so: it must not turn a paid order into an unpaid one.
    $late = isset($_SERVER['HTTP_COUNTERSIGN_SUPERSEDED']) ? 'late' : 'current';
    fwrite($once, "{$result['orderid']} {$result['txnamt']} {$result['resultcode']} $late\n");
    fclose($once);
}
reply(200, '0000');                 // only now: the result is booked
