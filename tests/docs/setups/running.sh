# A lake of two sources, two simulated replicas and a daemon that is ready and has published the lake's five records.
mkdir -p lake/claude_cli lake/my_agent
cat > lake/claude_cli/monday.jsonl <<'END'
{"messages": [{"role": "user", "content": "Add a --json flag."}, {"role": "assistant", "content": "Done, all 41 tests pass."}]}
{"messages": [{"role": "user", "content": "Why does the build fail?"}, {"role": "assistant", "content": "I cannot find out."}]}
{"messages": [{"role": "user", "content": "Rename the col
END
cat > lake/my_agent/notes.jsonl <<'END'
{"messages": [{"role": "user", "content": "Note 1"}, {"role": "assistant", "content": "Noted."}]}
{"messages": [{"role": "user", "content": "Note 2"}, {"role": "assistant", "content": "Noted."}]}
END
cat > mira.toml <<END
[source]
uri = "lake"
list_seconds = 0.2

[sink]
uri = "scores"
roll_seconds = 0.2

[[pool]]
group = "agent/A"
replicas = ["http://127.0.0.1:$PORT_8001", "http://127.0.0.1:$PORT_8002"]

[http]
listen = "127.0.0.1:$PORT_9464"
END
mira-stream sim --port "$PORT_8001" --time-scale 0.02 > replica-1.log 2>&1 &
mira-stream sim --port "$PORT_8002" --time-scale 0.02 > replica-2.log 2>&1 &
mira-stream run --config mira.toml 2> daemon.log &
daemon=$!
until [ "$(curl -s "http://127.0.0.1:$PORT_9464/metrics" | grep -c '^mira_stream_records_ended_total.* [12].0')" = 3 ]; do
  kill -0 $daemon || { cat daemon.log; return 1; }
  sleep 0.2
done
