// The server that h1spec wants behind a proxy: whatever the method, the body comes back. Argument: port.

import http from 'node:http'

http.createServer((request, response) => {
  const chunks = []
  request.on('data', chunk => chunks.push(chunk))
  request.on('end', () => response.end(Buffer.concat(chunks)))
}).listen(Number(process.argv[2]), '127.0.0.1')
