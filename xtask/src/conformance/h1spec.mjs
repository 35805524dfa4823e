// Runs h1spec's http_test.ts, which is written for Deno, in Node.js: the four calls that it makes, over node:net.
// Arguments: folder of the suite (with `typescript` among its modules), host, port.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import net from 'node:net'

const [folder, host, port] = process.argv.slice(2)
const typescript = createRequire(`${folder}/`)('typescript')

class Connection {
  #socket
  #chunks = []
  #ended = false
  #closed = false
  #wake = () => {}

  constructor (socket) {
    this.#socket = socket
    // What is left open at the end is not to keep the process.
    socket.unref()
    socket.on('data', chunk => {
      this.#chunks.push(chunk)
      this.#wake()
    })
    for (const end of ['end', 'close', 'error']) {
      socket.on(end, () => {
        this.#ended = true
        this.#wake()
      })
    }
  }

  write (bytes) {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, error => error ? reject(error) : resolve(bytes.length))
    })
  }

  async read (buffer) {
    while (this.#chunks.length === 0 && !this.#ended) {
      await new Promise(resolve => { this.#wake = resolve })
    }
    if (this.#closed) throw new Error('closed while reading')
    if (this.#chunks.length === 0) return null
    const bytes = Buffer.concat(this.#chunks)
    this.#chunks = []
    return bytes.copy(buffer)
  }

  close () {
    this.#closed = true
    this.#socket.destroy()
  }
}

globalThis.Deno = {
  args: [host, port],
  exit: code => { process.exitCode = code },
  connect: ({ hostname, port }) => new Promise((resolve, reject) => {
    const socket = net.connect({ host: hostname, port }, () => resolve(new Connection(socket)))
    socket.once('error', reject)
  })
}

const source = readFileSync(`${folder}/http_test.ts`, 'utf8')
const script = typescript.transpile(source, { target: 'es2022', module: 'es2022' })
await import(`data:text/javascript;base64,${Buffer.from(script).toString('base64')}`)
