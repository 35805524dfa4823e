// What came of a run of cache-tests, in the suite's own judgement: one line of JSON for each test that is for shared caches.
// Arguments: folder of the suite, file with its results.

import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const [folder, file] = process.argv.slice(2)
const load = async path => import(pathToFileURL(`${folder}/${path}`))
const { default: suites } = await load('tests/index.mjs')
const { determineTestResult, resultTypes } = await load('test-engine/lib/results.mjs')
const results = JSON.parse(readFileSync(file, 'utf8'))

for (const suite of suites) {
  for (const test of suite.tests.filter(test => !test.browser_only)) {
    const result = results[test.id]
    const verdict = determineTestResult(suites, test.id, results)
    const why = verdict === resultTypes.dependency_fail
      ? `depends on ${test.depends_on.join(', ')}`
      : Array.isArray(result) ? result[1] : 'not run'
    const passed = verdict === resultTypes.pass || verdict === resultTypes.yes
    console.log(JSON.stringify({ id: test.id, kind: test.kind ?? 'required', passed, why }))
  }
}
