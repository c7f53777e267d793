{{/* One address of the configuration: (list . "chat"). */}}
{{- define "tertulia.address" -}}
{{- $part := index . 1 }}
{{- $section := get (index . 0).Values.config $part | default dict }}
{{- $address := get $section "address" | default "" }}
{{- if not (regexMatch ":[1-9][0-9]*$" $address) }}
{{- fail (printf "config.%s.address must be IP:PORT with a port that is not 0, not '%v'" $part $address) }}
{{- end }}
{{- $address }}
{{- end }}

{{- define "tertulia.port" -}}
{{- include "tertulia.address" . | splitList ":" | last }}
{{- end }}

{{/* Not empty if only the pod itself reaches the address: (list . "admin"). */}}
{{- define "tertulia.isLoopback" -}}
{{- if regexMatch "^(127\\.|\\[::1\\]|\\[::ffff:127\\.)" (include "tertulia.address" .) }}yes{{ end }}
{{- end }}

{{- define "tertulia.adminExposed" -}}
{{- if not (include "tertulia.isLoopback" (list . "admin")) }}yes{{ end }}
{{- end }}

{{- define "tertulia.engine" -}}
{{- get (.Values.config.log | default dict) "engine" | default "embedded" }}
{{- end }}

{{/* Where messages are: claim (a PersistentVolumeClaim), emptyDir, or none (the engine keeps nothing on disk). */}}
{{- define "tertulia.storage" -}}
{{- if ne (include "tertulia.engine" .) "embedded" }}none
{{- else if .Values.persistence.enabled }}claim
{{- else }}emptyDir
{{- end }}
{{- end }}

{{/* Four fifths of the size of an emptyDir, in bytes. */}}
{{- define "tertulia.emptyDirBytes" -}}
{{- $size := .Values.persistence.size }}
{{- $unit := regexFind "[A-Za-z]+$" $size }}
{{- $units := dict "m" 0.001 "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 }}
{{- mulf (regexFind "^[0-9.]+" $size | float64) (get $units $unit) 0.8 | int64 }}
{{- end }}

{{/* Not empty if pods are nodes that serve the same groups, with messages in NATS. */}}
{{- define "tertulia.isCluster" -}}
{{- if eq (include "tertulia.engine" .) "nats" }}yes{{ end }}
{{- end }}

{{/* The ports of NATS, with commas between them. */}}
{{- define "tertulia.natsPorts" -}}
{{- $ports := list }}
{{- range splitList "," (dig "nats" "urls" "" .Values.config) }}
{{- $ports = append $ports (regexFind ":[0-9]+/?$" (trim .) | trimAll ":/" | default "4222") }}
{{- end }}
{{- $ports | uniq | join "," }}
{{- end }}

{{/* The port of the collector of traces; empty if there is none outside the pod. */}}
{{- define "tertulia.tracesPort" -}}
{{- $traces := dig "telemetry" "traces" dict .Values.config }}
{{- $endpoint := get $traces "endpoint" | default "" }}
{{- if and (eq (get $traces "enabled" | toString) "true") (not (regexMatch "^https?://(localhost|127\\.[0-9.]+|\\[::1\\]):" $endpoint)) }}
{{- regexFind ":[0-9]+/?$" $endpoint | trimAll ":/" }}
{{- end }}
{{- end }}

{{/* Whole seconds, rounded up, of a time of the configuration as the server writes it (1m 30s): (list . SECTION KEY DEFAULT). */}}
{{- define "tertulia.seconds" -}}
{{- $section := get (index . 0).Values.config (index . 1) | default dict }}
{{- $text := get $section (index . 2) | default (index . 3) | toString }}
{{- if not (regexMatch "^([0-9]+ ?(ms|s|m|h) ?)+$" $text) }}
{{- fail (printf "config.%s.%s must be a time such as 20s or 1m 30s, not '%s'" (index . 1) (index . 2) $text) }}
{{- end }}
{{- $total := 0 }}
{{- range regexFindAll "[0-9]+ ?(ms|s|m|h)" $text -1 }}
{{- $number := regexFind "^[0-9]+" . | int }}
{{- $unit := regexFind "[a-z]+$" . }}
{{- if eq $unit "ms" }}
{{- $total = add $total (div (add $number 999) 1000) }}
{{- else }}
{{- $total = add $total (mul $number (get (dict "s" 1 "m" 60 "h" 3600) $unit)) }}
{{- end }}
{{- end }}
{{- $total }}
{{- end }}

{{/* The server ends by itself before Kubernetes kills it. */}}
{{- define "tertulia.terminationGracePeriodSeconds" -}}
{{- $seconds := include "tertulia.seconds" (list . "drain" "grace" "20s") | int }}
{{- $given := .Values.terminationGracePeriodSeconds }}
{{- if kindIs "invalid" $given }}
{{- add $seconds 10 }}
{{- else if le (int $given) $seconds }}
{{- fail (printf "terminationGracePeriodSeconds (%d) must be more than config.drain.grace (%ds)" (int $given) $seconds) }}
{{- else }}
{{- int $given }}
{{- end }}
{{- end }}

{{/* Not empty if a port speaks TLS: (list . "http"). */}}
{{- define "tertulia.secure" -}}
{{- $port := index . 1 }}
{{- with index . 0 }}
{{- if or (get .Values.tls $port).existingSecret (dig $port "tls" "cert_file" "" .Values.config) }}yes{{ end }}
{{- end }}
{{- end }}

{{/* The file that the server reads: the configuration as it was given, and the places of what is mounted. */}}
{{- define "tertulia.config" -}}
{{- $config := deepCopy .Values.config }}
{{- range $port := list "chat" "admin" "http" }}
{{- if (get $.Values.tls $port).existingSecret }}
{{- if dig $port "tls" "cert_file" "" $config }}
{{- fail (printf "tls.%s.existingSecret and config.%s.tls.cert_file exclude each other" $port $port) }}
{{- end }}
{{- $folder := printf "/etc/tertulia-tls/%s" $port }}
{{- $files := dict "cert_file" (printf "%s/tls.crt" $folder) "key_file" (printf "%s/tls.key" $folder) }}
{{- $_ := set $config $port (merge (dict "tls" $files) (get $config $port)) }}
{{- end }}
{{- end }}
{{- if .Values.tls.admin.clientCASecret }}
{{- if not (include "tertulia.secure" (list . "admin")) }}
{{- fail "tls.admin.clientCASecret needs tls.admin.existingSecret: certificates of callers are shown within TLS" }}
{{- end }}
{{- $_ := set $config "admin" (merge (dict "client_ca_file" "/etc/tertulia-tls/admin-clients/ca.crt") $config.admin) }}
{{- end }}
{{- if .Values.admin.existingSecret }}
{{- if dig "admin" "token_file" "" $config }}
{{- fail "admin.existingSecret and config.admin.token_file exclude each other" }}
{{- end }}
{{- $_ := set $config "admin" (merge (dict "token_file" "/etc/tertulia-admin/token") ($config.admin | default dict)) }}
{{- end }}
{{- if and (eq (include "tertulia.storage" .) "emptyDir") (not (hasKey ($config.log | default dict) "disk_bytes")) }}
{{- /* What the server sees of an emptyDir is the disk of the node. It must refuse posts by itself before Kubernetes evicts the pod, and all messages with it. */}}
{{- $bound := include "tertulia.emptyDirBytes" . | int64 }}
{{- if lt $bound 8388608 }}
{{- fail (printf "persistence.size (%s) is too small: the server's files need at least 10Mi" .Values.persistence.size) }}
{{- end }}
{{- $log := dict "disk_bytes" $bound }}
{{- /* Files of the commit log, those that are held ready and two more, may take half of it. In whole MiB, the least that a file may have. */}}
{{- $segment := div $bound (mul 2097152 (add 2 (($config.log | default dict).spare_segments | default 2))) | max 1 }}
{{- if and (lt $segment 64) (not (hasKey ($config.log | default dict) "segment_bytes")) }}
{{- $_ := set $log "segment_bytes" (mul $segment 1048576) }}
{{- end }}
{{- $_ := set $config "log" (merge $log ($config.log | default dict)) }}
{{- end }}
{{- if include "tertulia.isCluster" . }}
{{- $_ := set $config "drain" (merge (dict) ($config.drain | default dict) (dict "delay" (include "tertulia.drainDelay" .))) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* How long nodes go on accepting connections once they are to stop, when nothing else is said: the cluster needs a moment to lead clients to the others. */}}
{{- define "tertulia.drainDelay" -}}
{{- if include "tertulia.isCluster" . }}3s{{ else }}0s{{ end }}
{{- end }}
