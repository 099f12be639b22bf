{{/* Everything that is wrong with the values, a line each, beginning with the value that it is about. */}}
{{- define "standpipe.findings" -}}
{{- $v := .Values }}
{{- $sqlite := include "standpipe.sqlite" . }}
{{- $opens := list }}
{{- if $v.shared.enabled }}{{ $opens = append $opens "shared" }}{{ end }}
{{- if $v.worker.enabled }}{{ $opens = append $opens "worker" }}{{ end }}

{{- $labels := dict "commonLabels" $v.commonLabels "pods.labels" $v.pods.labels }}
{{- range $section := list "shared" "embedder" "worker" "migration" "smoke" }}
{{- $component := get $v $section }}
{{- $_ := set $labels (printf "%s.pod.labels" $section) ($component.pod.labels | default dict) }}
{{- $_ := set $labels (printf "%s.service.labels" $section) (($component.service | default dict).labels | default dict) }}
{{- end }}
{{- range $at, $given := $labels }}
{{- range $name, $_ := $given }}
{{- if or (hasPrefix "app.kubernetes.io/" $name) (eq $name "helm.sh/chart") }}
{{ $at }}: {{ $name }} is set by the chart
{{- end }}
{{- end }}
{{- end }}

{{- /* stores and keys */}}
{{- if and $opens (not $v.record.existingSecret) (not $sqlite) }}
record.existingSecret: must name a Secret with the record store's URI, for {{ join " and " $opens }}; or settings.record a SQLite file
{{- end }}
{{- if and $v.record.existingSecret $sqlite }}
settings.record: must be left out where record.existingSecret is named
{{- end }}
{{- if and $sqlite $v.shared.enabled (or (gt (int $v.shared.replicas) 1) $v.shared.autoscaling.enabled $v.shared.keda.enabled) }}
shared.replicas: must be 1, and nothing must scale it, where settings.record is a SQLite file, which one process serves
{{- end }}
{{- if and $sqlite $v.worker.enabled }}
worker.enabled: must be false where settings.record is a SQLite file, which one pod serves
{{- end }}
{{- if and $sqlite $v.migration.enabled }}
migration.enabled: must be false where settings.record is a SQLite file, which is brought up to date when it is opened
{{- end }}
{{- if and $v.hot.address $v.hot.existingSecret }}
hot.address: must be empty where hot.existingSecret is named
{{- end }}
{{- $keys := or $v.encryption.existingSecret (hasKey $v.settings "encryption_keys_command") }}
{{- if and $keys $v.encryption.plaintext }}
encryption.plaintext: must be false where there are keys
{{- end }}
{{- if and $v.encryption.existingSecret (hasKey $v.settings "encryption_keys_command") }}
settings.encryption_keys_command: must be left out where encryption.existingSecret is named
{{- end }}
{{- if and $opens (not $keys) (not $v.encryption.plaintext) }}
encryption.existingSecret: must name a Secret with the keys, or encryption.plaintext be true
{{- end }}

{{- /* memory: a cache that is full evicts, and a container that is over its limit is killed */}}
{{- if $v.shared.enabled }}
{{- $config := include "standpipe.config" (dict "root" $ "component" "shared" "values" $v.shared) | fromYaml }}
{{- include "standpipe.tooLittle" (dict "at" "shared.resources.limits.memory" "memory" $v.shared.resources.limits.memory "config" $config) }}
{{- end }}
{{- if $v.injection.enabled }}
{{- $config := include "standpipe.config" (dict "root" $ "component" "sidecar" "values" $v.injection) | fromYaml }}
{{- range $number, $namespace := $v.injection.namespaces }}
{{- $own := hasKey $namespace "memory" }}
{{- $at := ternary (printf "injection.namespaces[%d].memory" $number) "injection.memory" $own }}
{{- $all := deepCopy $config }}
{{- range $name, $value := $namespace.settings }}{{ $_ := set $all $name $value }}{{ end }}
{{- include "standpipe.tooLittle" (dict "at" $at "memory" (ternary $namespace.memory $v.injection.memory $own) "config" $all) }}
{{- end }}
{{- end }}

{{- /* settings that have values of their own */}}
{{- range $section := list "" "shared" "embedder" "worker" }}
{{- $at := ternary "settings" (printf "%s.settings" $section) (eq $section "") }}
{{- $given := $v.settings }}
{{- if $section }}{{ $given = (get $v $section).settings | default dict }}{{ end }}
{{- $owned := dict
    "hot" "hot" "listen" "bindAddress" "http" "bindAddress"
    "encryption_keys_file" "encryption.existingSecret" "plaintext" "encryption.plaintext"
    "embedder_address" "embedderClient.addresses" "embedder_ca_file" "embedderClient.existingSecret"
    "embedder_cert_file" "embedderClient.certificate" "embedder_key_file" "embedderClient.certificate"
    "tls_cert_file" "shared.tls.existingSecret" "tls_key_file" "shared.tls.existingSecret"
    "tls_client_ca_file" "shared.tls.clientCertificates"
    "auth_jwks" "shared.auth.jwks" "auth_issuer" "shared.auth.issuer" "auth_review" "shared.auth.review"
    "auth_audience" "shared.auth.audience" "auth_ca_file" "shared.auth.clusterCredentials"
    "auth_api_token_file" "shared.auth.clusterCredentials" "auth_token_file" "shared.auth.existingSecret"
    "tenants_file" "shared.tenants"
    "extractor_url" "worker.extraction.url" "extractor_model" "worker.extraction.model"
    "extractor_key_file" "worker.extraction.existingSecret"
    "device" "embedder.gpu.enabled" }}
{{- range $name, $_ := $given }}
{{- if hasKey $owned $name }}
{{ $at }}.{{ $name }}: is set by the chart: use {{ get $owned $name }}
{{- end }}
{{- if and $section (eq $name "record") }}
{{ $at }}.record: must be left out: all components have settings.record, or record.existingSecret
{{- end }}
{{- end }}
{{- end }}

{{- /* injection: what settings of sidecars have values of their own, for all and in one namespace */}}
{{- $sidecars := dict "injection.settings" ($v.injection.settings | default dict) }}
{{- $names := list }}
{{- range $v.injection.namespaces }}
{{- $_ := set $sidecars (printf "injection.namespaces: %s: settings" .name) (.settings | default dict) }}
{{- if has .name $names }}
injection.namespaces: {{ .name }} is there twice
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- range $at, $given := $sidecars }}
{{- range $name, $instead := dict
    "hot" "hot, or the Secret's key hot" "record" "record, or the Secret's key record" "listen" "shared for other addresses"
    "http" "bindAddress" "encryption_keys_file" "encryption, or the Secret's key standpipe.keys"
    "plaintext" "encryption.plaintext" "device" "injection.gpu" }}
{{- if hasKey $given $name }}
{{ $at }}.{{ $name }}: is set by the chart: use {{ $instead }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.injection.enabled (semverCompare "<1.34-0" .Capabilities.KubeVersion.Version) }}
injection.enabled: must be false before Kubernetes 1.34, which has no MutatingAdmissionPolicy to serve: include the chart's templates in a chart of yours, or use k8s/kustomize
{{- end }}

{{- /* how many pods */}}
{{- range $name, $replicas := dict "shared" 2 "embedder" 1 }}
{{- $c := get $v $name }}
{{- if $c.enabled }}
{{- if and $c.autoscaling.enabled $c.keda.enabled }}
{{ $name }}.keda.enabled: must be false where {{ $name }}.autoscaling.enabled is true: one of them decides how many pods there are
{{- end }}
{{- if and (or $c.autoscaling.enabled $c.keda.enabled) (ne (int $c.replicas) $replicas) }}
{{ $name }}.replicas: must be left at {{ $replicas }} where {{ ternary "autoscaling" "keda" $c.autoscaling.enabled }} decides how many pods there are
{{- end }}
{{- range $by := list "autoscaling" "keda" }}
{{- $scaling := get $c $by }}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{ $name }}.{{ $by }}.minReplicas: must not be more than maxReplicas, {{ int $scaling.maxReplicas }}
{{- end }}
{{- end }}
{{- $load := ternary "hydratesInFlight" "waitingTokens" (eq $name "shared") }}
{{- if and $c.autoscaling.enabled (not $c.autoscaling.cpuPercent) (not (get $c.autoscaling $load)) }}
{{ $name }}.autoscaling: must go by cpuPercent or by {{ $load }}; both are 0
{{- end }}
{{- if and $c.keda.enabled (not $c.keda.serverAddress) }}
{{ $name }}.keda.serverAddress: must say where Prometheus is
{{- end }}
{{- end }}
{{- end }}
{{- range $name := list "shared" "embedder" "worker" }}
{{- $c := get $v $name }}
{{- if $c.enabled }}
{{- $budget := $c.podDisruptionBudget }}
{{- if and $budget.enabled (ne (toString $budget.minAvailable) "") }}
{{- if ne (toString $budget.maxUnavailable) "" }}
{{ $name }}.podDisruptionBudget: must have minAvailable or maxUnavailable, not both
{{- end }}
{{- $least := $c.replicas }}
{{- range $by := list "autoscaling" "keda" }}
{{- with get $c $by }}{{ if .enabled }}{{ $least = .minReplicas }}{{ end }}{{ end }}
{{- end }}
{{- if and (not (kindIs "string" $budget.minAvailable)) (ge (int $budget.minAvailable) (int $least)) }}
{{ $name }}.podDisruptionBudget.minAvailable: must be less than the {{ int $least }} pods that there are, or no node is ever drained
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* the shared component's callers */}}
{{- with $v.shared }}
{{- if .enabled }}
{{- $proof := or (ne .auth.mode "none") .tls.clientCertificates }}
{{- if and (not $proof) (not .auth.allowAnonymous) }}
shared.auth.mode: must say how callers prove who they are, or shared.tls.clientCertificates be true; else whoever reaches the Service reads and writes everything, which shared.auth.allowAnonymous: true allows
{{- end }}
{{- if and $proof .auth.allowAnonymous }}
shared.auth.allowAnonymous: must be false where callers prove who they are
{{- end }}
{{- if and (eq .auth.mode "tokens") (not .auth.existingSecret) }}
shared.auth.existingSecret: must name a Secret with the file of tokens, with auth.mode tokens
{{- end }}
{{- if and (ne .auth.mode "tokens") .auth.existingSecret }}
shared.auth.existingSecret: must be empty where auth.mode is not tokens
{{- end }}
{{- if and (has .auth.mode (list "jwks" "review")) (not .tenants) (not .tenantsConfigMap) }}
shared.tenants: must say which callers act for which tenants, with auth.mode {{ .auth.mode }}
{{- end }}
{{- $named := or (has .auth.mode (list "jwks" "review")) (and (eq .auth.mode "none") .tls.clientCertificates) }}
{{- if and (or .tenants .tenantsConfigMap) (not $named) }}
shared.tenants: must be empty where callers have no names, which auth.mode jwks or review gives them, or none with tls.clientCertificates
{{- end }}
{{- if and (eq .auth.mode "review") (not .auth.clusterCredentials) }}
shared.auth.clusterCredentials: must be true with auth.mode review: nobody reviews tokens for whom they do not know
{{- end }}
{{- range .tenants }}
{{- range ternary .callers (list) (eq .tenant "{namespace}") }}
{{- if not (hasPrefix "system:serviceaccount:" .) }}
shared.tenants: {namespace} must have callers that begin with system:serviceaccount:, which have a namespace
{{- end }}
{{- end }}
{{- end }}
{{- if and .tenants .tenantsConfigMap }}
shared.tenantsConfigMap: must be empty where shared.tenants is not
{{- end }}
{{- if and .service.headless (ne .service.type "ClusterIP") }}
shared.service.headless: must be false with type {{ .service.type }}
{{- end }}
{{- if and .networkPolicy.enabled (not .networkPolicy.from) }}
shared.networkPolicy.from: must name at least one peer, or nobody could call
{{- end }}
{{- end }}
{{- end }}
{{- range $name := list "shared" "embedder" }}
{{- $tls := (get $v $name).tls }}
{{- if and $tls.clientCertificates (not $tls.existingSecret) }}
{{ $name }}.tls.clientCertificates: must be false without {{ $name }}.tls.existingSecret
{{- end }}
{{- end }}

{{- /* the embedder, and who asks it */}}
{{- if and $v.embedderClient.certificate (not $v.embedderClient.existingSecret) }}
embedderClient.certificate: must be false without embedderClient.existingSecret
{{- end }}
{{- if and $v.embedderClient.existingSecret (not $v.embedderClient.addresses) (not $v.embedder.enabled) }}
embedderClient.existingSecret: must be empty where no embedder is asked
{{- end }}
{{- with $v.embedder }}
{{- if .enabled }}
{{- if $v.embedderClient.addresses }}
embedderClient.addresses: must be empty where embedder.enabled is true: nobody would ask this release's embedder
{{- end }}
{{- range $at, $given := dict "settings" $v.settings "embedder.settings" .settings }}
{{- if eq (get $given "embedder") "none" }}
{{ $at }}.embedder: must name a model where embedder.enabled is true
{{- end }}
{{- if and $v.embedder.gpu.enabled (eq (get $given "precision") "int8") }}
{{ $at }}.precision: must be fp16 or fp32 where embedder.gpu.enabled is true: int8 is no faster on a GPU
{{- end }}
{{- end }}
{{- if $opens }}
{{- if and .tls.existingSecret (not $v.embedderClient.existingSecret) }}
embedderClient.existingSecret: must name a Secret with ca.crt, since embedder.tls.existingSecret makes the embedder speak TLS
{{- end }}
{{- if and (not .tls.existingSecret) $v.embedderClient.existingSecret }}
embedder.tls.existingSecret: must name the embedder's certificate, since embedderClient.existingSecret makes others ask with TLS
{{- end }}
{{- if and .tls.clientCertificates (not $v.embedderClient.certificate) }}
embedderClient.certificate: must be true where embedder.tls.clientCertificates asks for one
{{- end }}
{{- end }}
{{- if and .gpu.enabled $v.image.digest (not $v.gpuImage.digest) }}
gpuImage.digest: must be given where image.digest is, since embedder.gpu.enabled uses it
{{- end }}
{{- end }}
{{- if and .gpu.claim.enabled (not .gpu.enabled) }}
embedder.gpu.claim.enabled: must be false where embedder.gpu.enabled is
{{- end }}
{{- if and .gpu.claim.existingTemplate (not .gpu.claim.enabled) }}
embedder.gpu.claim.existingTemplate: must be empty where embedder.gpu.claim.enabled is false
{{- end }}
{{- end }}

{{- /* the worker, and the migration */}}
{{- with $v.worker.extraction }}
{{- if and .enabled (not .url) }}
worker.extraction.url: must name the endpoint, with worker.extraction.enabled
{{- end }}
{{- if and .enabled (not .model) }}
worker.extraction.model: must name the model, with worker.extraction.enabled
{{- end }}
{{- if and .enabled (not $v.worker.enabled) }}
worker.extraction.enabled: must be false where worker.enabled is
{{- end }}
{{- end }}
{{- if and $v.migration.enabled (not $v.migration.existingSecret) }}
migration.existingSecret: must name a Secret with the URI of the schema's owner
{{- end }}
{{- end -}}

{{/*
at, memory and config, the settings in force: that memory is less than a process without a model (130 MiB) or with one
(216 MiB) takes, as k8s/docs/sizing.md has it measured, and its caches when they are full. Only Mi and Gi are understood.
*/}}
{{- define "standpipe.tooLittle" -}}
{{- $memory := toString .memory }}
{{- if regexMatch "^[0-9]+[MG]i$" $memory }}
{{- $given := mul (regexFind "^[0-9]+" $memory | int) (ternary 1024 1 (hasSuffix "Gi" $memory)) }}
{{- $embedder := get .config "embedder" | default "all-MiniLM-L6-v2" }}
{{- $model := and (ne $embedder "none") (or (empty (get .config "embedder_address")) (get .config "embedder_fallback")) }}
{{- $caches := div (add (get .config "view_cache_bytes" | default 67108864 | int64) (get .config "block_cache_bytes" | default 268435456 | int64)) 1048576 }}
{{- $needed := add $caches (ternary 216 130 (not (empty $model))) }}
{{- if lt $given $needed }}
{{ .at }}: must be at least {{ $needed }}Mi, {{ $caches }}Mi of it for view_cache_bytes and block_cache_bytes, which can be less
{{- end }}
{{- end }}
{{- end -}}

{{/* Whether the record store is a SQLite file. */}}
{{- define "standpipe.sqlite" -}}
{{- if hasPrefix "sqlite:" (get .Values.settings "record" | default "") -}}true{{- end -}}
{{- end -}}
